"""The accuracies of a method on a pair, by seed, read from a frame of runs, and other look-ups that sections share."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

import distillers
from benchmark.analysis import stats
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.numbers import MISSING, finite, two_decimals
from benchmark.analysis.table import Cell
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from benchmark.tracking import Tracked
from benchmark.train.teacher_store import Manifest
from reports.base import Context


class Selection(NamedTuple):
    """A way to choose the epoch of a run whose accuracy is reported."""

    #: as the header of a column
    short: str
    #: as a heading above rows
    title: str


#: by column of the frame, the headline first
SELECTIONS = {
    "last": Selection("last", "After the last epoch"),
    "best_val": Selection("best on validation", "Epoch that is best on the validation split"),
    "best_test": Selection("best on test", "Epoch that is best on the test set, as the literature reports"),
}


@dataclass(frozen=True)
class Scores:
    """One figure of a method's finished runs on a pair, in percent."""

    #: by repetition, ascending; runs without the figure are left out
    by_seed: pd.Series[float]
    run_ids: tuple[str, ...]

    @property
    def values(self) -> list[float]:
        """The figures, in the order of the seeds."""
        return [float(value) for value in self.by_seed.tolist()]

    @property
    def mean(self) -> float | None:
        """The mean, None without a run."""
        return stats.mean_std(self.values)[0] if len(self.by_seed) else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation, None below two runs."""
        return stats.mean_std(self.values)[1] if len(self.by_seed) else None


class Comparison(NamedTuple):
    """A method on a pair, and the base that it is claimed to beat."""

    pair: Pair
    method: str
    base: str

    @property
    def label(self) -> str:
        """The difference in words: `SD-KD − KD`."""
        return f"{title_of(self.method)} − {title_of(self.base)}"


def scores(frame: pd.DataFrame, pair: Pair, method: str, column: str = "last") -> Scores:
    """Read a figure of a method's finished runs on a pair, one per seed; non-finite values count as missing."""
    if not len(frame) or column not in frame:
        return Scores(pd.Series(dtype=float), ())
    mine = (frame["status"] == "FINISHED") & (frame["student"] == pair.student) & (frame["method"] == method)
    if distillers.registry.get(method).needs_teacher:
        mine &= frame["teacher"] == pair.teacher
    # these columns only: a frame has fifty more, which would be copied at every call
    return as_scores(frame.loc[mine, ["repetition", "run_id", column]], column)


def with_parameters(frame: pd.DataFrame, tracked: Iterable[Tracked]) -> pd.DataFrame:
    """Add one column per parameter, prefixed `param.`, to a frame of these runs."""
    of_run = {run.run_id: run.params for run in tracked}
    params = pd.DataFrame([dict(of_run[run_id]) for run_id in frame["run_id"]], index=frame.index)
    return pd.concat([frame, params.add_prefix("param.")], axis=1)


def as_scores(runs: pd.DataFrame, column: str = "last") -> Scores:
    """Collect a figure of runs that differ only in their seed."""
    kept: dict[int, tuple[float, str]] = {}
    # plain Python: a report calls this a thousand times, with a few runs each
    for value, repetition, run_id in zip(runs[column], runs["repetition"], runs["run_id"], strict=True):
        number = finite(value)
        if number is not None:  # when a run was trained twice, the newer comes first
            kept.setdefault(int(repetition), (number, str(run_id)))
    seeds = sorted(kept)
    by_seed = pd.Series([kept[seed][0] for seed in seeds], index=seeds, dtype=float)
    return Scores(by_seed, tuple(kept[seed][1] for seed in seeds))


def comparisons(plan: Plan) -> Iterator[Comparison]:
    """Yield the comparisons that a plan makes, pair by pair: SD-X against X, and X against the student alone."""
    for pair in plan.pairs:
        for method in plan.methods:
            base = base_of(method)
            if base is not None and base in plan.methods:
                yield Comparison(pair, method, base)


def teacher_cell(manifest: Manifest | None) -> Cell:
    """Make the cell of a stored teacher's accuracy, with the run that trained it."""
    if manifest is None:
        return Cell(MISSING)
    return Cell(two_decimals(manifest.test_top1), (manifest.mlflow_run,) if manifest.mlflow_run else ())


def pair_title(pair: str) -> str:
    """Format `teacher:student` for headings and labels."""
    return pair.replace(":", " → ")


def command(context: Context, *more: str) -> str:
    """The shell command that runs the plan, or the part of it that `more` chooses."""
    suite, *rest = context.arguments or (context.plan.suite.name,)
    return shlex.join(["python", "-m", "benchmark.run", suite, *more, *rest])
