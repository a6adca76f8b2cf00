"""The accuracies of a method on a pair, by seed, read from a frame of runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import distillers
from benchmark.analysis import stats
from benchmark.analysis.numbers import finite
from benchmark.plan.suite import Pair


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


def scores(frame: pd.DataFrame, pair: Pair, method: str, column: str = "last") -> Scores:
    """Read a figure of a method's finished runs on a pair, one per seed; non-finite values count as missing."""
    if not len(frame) or column not in frame:
        return Scores(pd.Series(dtype=float), ())
    asked = {"status": "FINISHED", "student": pair.student, "method": method}
    if distillers.registry.get(method).needs_teacher:
        asked["teacher"] = pair.teacher
    # no masks of pandas, and these columns only: a report calls this a thousand times, for a few runs each
    matches = [frame[name].to_numpy(object) == value for name, value in asked.items()]
    rows = np.flatnonzero(np.logical_and.reduce(matches))
    return _collected(*(frame[name].array.take(rows).tolist() for name in (column, "repetition", "run_id")))


def as_scores(runs: pd.DataFrame, column: str = "last") -> Scores:
    """Collect a figure of runs that differ only in their seed."""
    return _collected(runs[column], runs["repetition"], runs["run_id"])


def _collected(values: Iterable[Any], repetitions: Iterable[Any], run_ids: Iterable[Any]) -> Scores:
    kept: dict[int, tuple[float, str]] = {}
    for value, repetition, run_id in zip(values, repetitions, run_ids, strict=True):
        number = finite(value)
        if number is not None:  # when a run was trained twice, the newer comes first
            kept.setdefault(int(repetition), (number, str(run_id)))
    seeds = sorted(kept)
    by_seed = pd.Series([kept[seed][0] for seed in seeds], index=seeds, dtype=float)
    return Scores(by_seed, tuple(kept[seed][1] for seed in seeds))
