"""What sections read of a frame of runs: the accuracies of a method on a pair, by seed, and how numbers are written."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

import distillers
from benchmark import stats
from benchmark.comparison import MISSING, signed
from benchmark.plan import Plan
from benchmark.published import VANILLA
from benchmark.suite import Pair
from benchmark.table import FEW_SEEDS, Value
from reports.base import Context

FEW_SEEDS_NOTE = f"{FEW_SEEDS} fewer than {stats.MIN_SEEDS} seeds: no interval, and no evidence of a difference."


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


class Comparison(NamedTuple):
    """Two methods of which the first is claimed to be better."""

    pair: Pair
    method: str
    base: str

    @property
    def label(self) -> str:
        """As a person reads it: `SD-KD − KD`."""
        return f"{title(self.method)} − {title(self.base)}"


def scores(frame: pd.DataFrame, pair: Pair, method: str, column: str = "last") -> Scores:
    """Return a figure of a method's finished runs on a pair, one per seed; what is not finite counts as missing."""
    if not len(frame) or column not in frame:
        return Scores(pd.Series(dtype=float), ())
    mine = (frame["status"] == "FINISHED") & (frame["student"] == pair.student) & (frame["method"] == method)
    if distillers.registry.get(method).needs_teacher:
        mine &= frame["teacher"] == pair.teacher
    return as_scores(frame[mine], column)


def as_scores(runs: pd.DataFrame, column: str = "last") -> Scores:
    """Return a figure of runs that differ in their seed only."""
    kept: dict[int, tuple[float, str]] = {}
    # plain Python: a report asks this a thousand times, of a few runs each
    for value, repetition, run_id in zip(runs[column], runs["repetition"], runs["run_id"], strict=True):
        number = _finite(value)
        if number is not None:  # of a run that was trained again, the newer stands first
            kept.setdefault(int(repetition), (number, str(run_id)))
    seeds = sorted(kept)
    by_seed = pd.Series([kept[seed][0] for seed in seeds], index=seeds, dtype=float)
    return Scores(by_seed, tuple(kept[seed][1] for seed in seeds))


def _finite(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def comparisons(plan: Plan) -> Iterator[Comparison]:
    """Yield what the methods of a plan are for, pair by pair: SD-X against X, and X against the student alone."""
    for pair in plan.pairs:
        for method in plan.methods:
            base = base_of(method)
            if base in plan.methods:
                yield Comparison(pair, method, base)


def base_of(method: str) -> str:
    """Return what a method's gain is over; nothing when it is the student alone."""
    if method == VANILLA:
        return ""
    return distillers.registry.get(method).base or VANILLA


def title(method: str) -> str:
    """Return a method as the papers print it."""
    return "student" if method == VANILLA else distillers.registry.get(method).title


def pair_title(pair: str) -> str:
    """Return `teacher:student` as a person reads it."""
    return pair.replace(":", " → ")


def command(context: Context, *more: str) -> str:
    """Return the command that runs the plan, or the part of it that `more` chooses, as a person types it."""
    suite, *rest = context.arguments or (context.plan.suite.name,)
    return shlex.join(["python", "-m", "benchmark.run", suite, *more, *rest])


def bracketed(interval: stats.Interval | None) -> str:
    """Write an interval of a difference."""
    return MISSING if interval is None else f"[{', '.join(map(signed, interval))}]"


def rounded(value: float | None) -> Value:
    """Return a number as a field of CSV: four decimals, nothing where there is none."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
