"""Statistics of a few seeds: spread, intervals, paired tests, the effects that they can detect, average ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
from scipy import special

# scipy.stats takes two seconds to import, so the one function that needs it imports it itself

CONFIDENCE = 0.95
POWER = 0.8
#: below this many seeds no interval is given: its half-width would be 9 standard deviations at two
MIN_SEEDS = 3
#: differences that lie closer than this are equal but for rounding
NO_SPREAD = 1e-9

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b over the seeds that both have, in the unit of the values."""

    #: by seed
    differences: tuple[float, ...]
    mean: float
    #: sample standard deviation; None below two seeds
    std: float | None
    #: Pearson's, between a and b over the seeds: how much pairing helps; None below three seeds or without spread
    correlation: float | None

    @property
    def num_seeds(self) -> int:
        """Number of seeds that both have."""
        return len(self.differences)


@dataclass(frozen=True)
class AverageRanks:
    """Ranks of methods, averaged over pairs."""

    #: mean rank by method, best (1) first; equal values share the mean of their ranks
    ranks: pd.Series[float]
    #: number of pairs that have a value of every method
    num_pairs: int
    #: p-value of Friedman's test, corrected for ties, chi-square approximation; None below three methods or two pairs
    p: float | None


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (ddof 1), which is None below two values.

    Raises:
        ValueError: without any value.
    """
    if not len(values):
        raise ValueError("the mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Two-sided interval mean -+ t_{n-1} std / sqrt(n), or None below three values."""
    num = len(values)
    if num < MIN_SEEDS:
        return None
    mean, std = mean_std(values)
    half_width = float(special.stdtrit(num - 1, (1 + confidence) / 2)) * (std or 0.0) / math.sqrt(num)
    return mean - half_width, mean + half_width


def minimum_detectable_effect(std: float, num: int, alpha: float = 1 - CONFIDENCE) -> float | None:
    """True difference that a test finds in 8 of 10 repeats of the whole experiment; None below three seeds.

    The test is the two-sided paired t test at `alpha` over `num` seeds, `std` the standard deviation of the differences
    by seed. Its power is that of the noncentral t distribution, not an approximation.
    """
    return std * _detectable_in_stds(num, alpha) if num >= MIN_SEEDS else None


def seeds_to_detect(effect: float, std: float, alpha: float, most: int) -> int | None:
    """Smallest number of seeds at which `effect` is detectable, see `minimum_detectable_effect`; None above `most`."""
    for num in range(MIN_SEEDS, most + 1):
        if std * _detectable_in_stds(num, alpha) <= effect:
            return num
    return None


def paired_difference(a: pd.Series[float], b: pd.Series[float]) -> PairedDifference | None:
    """Mean of a - b over the seeds that both have (index: repetition), or None when they share none."""
    if a.empty or b.empty:
        return None
    both = pd.concat({"a": a, "b": b}, axis=1, join="inner").dropna()
    differences = (both["a"] - both["b"]).tolist()
    num = len(differences)
    if not num:
        return None
    mean, std = mean_std(differences)
    has_spread = num >= MIN_SEEDS and both["a"].nunique() > 1 and both["b"].nunique() > 1
    return PairedDifference(
        differences=tuple(differences),
        mean=mean,
        std=std,
        correlation=float(both["a"].corr(both["b"])) if has_spread else None,
    )


def paired_p(differences: Sequence[float]) -> float | None:
    """p-value of the two-sided paired t test of no difference; None below three values or when all are equal."""
    if len(differences) < MIN_SEEDS or max(differences) - min(differences) < NO_SPREAD:
        return None
    mean, std = mean_std(differences)
    t = abs(mean) / (std or 0.0) * math.sqrt(len(differences))
    return 2 * float(special.stdtr(len(differences) - 1, -t))


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values so that those at most q hold a share of at most q false ones, on average (Benjamini-Hochberg).

    In the order given; None, for no test, stays None.
    """
    tested = sorted(((p, place) for place, p in enumerate(p_values) if p is not None), reverse=True)
    adjusted: list[float | None] = [None] * len(p_values)
    reached = 1.0
    for num_above, (p, place) in enumerate(tested):
        reached = min(reached, p * len(tested) / (len(tested) - num_above))
        adjusted[place] = reached
    return adjusted


def average_ranks(values: pd.DataFrame) -> AverageRanks | None:
    """Mean ranks of the methods (columns) over the pairs (rows), the largest value first; None without a pair.

    Only pairs with a value of every method count.
    """
    whole = values.dropna()
    if whole.empty or not len(whole.columns):
        return None
    ranks = whole.rank(axis=1, ascending=False, method="average").mean().sort_values(kind="stable")
    p = None
    if len(whole.columns) >= 3 and len(whole) >= 2 and (whole.nunique(axis=1) > 1).any():
        from scipy import stats

        p = float(stats.friedmanchisquare(*(whole[method] for method in whole.columns)).pvalue)
    return AverageRanks(ranks, len(whole), p)


@cache
def _detectable_in_stds(num: int, alpha: float) -> float:
    critical = special.stdtrit(num - 1, 1 - alpha / 2)
    # the noncentrality at which t stays below its critical value with 1 - power; the far tail adds less than 1e-5
    return float(special.nctdtrinc(num - 1, 1 - POWER, critical)) / math.sqrt(num)
