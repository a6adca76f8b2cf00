"""What a few seeds allow one to say: spread, paired differences with t intervals, and what they could have missed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd
from scipy import special, stats

CONFIDENCE = 0.95
POWER = 0.8
#: below this many seeds no interval is given: its half-width would be 9 standard deviations at two
MIN_SEEDS = 3

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b over the seeds that both have, in the unit of the values."""

    mean: float
    #: seeds that both have
    num_seeds: int
    #: two-sided 95% t interval of the mean; None below three seeds
    interval: Interval | None
    #: Pearson's, between a and b over the seeds: how much pairing helps; None below three seeds or without spread
    correlation: float | None
    #: see `minimum_detectable_effect`; None below three seeds
    detectable: float | None


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (ddof 1), which is None below two values.

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
    """Return the two-sided interval mean -+ t_{n-1} std / sqrt(n), or None below three values."""
    num = len(values)
    if num < MIN_SEEDS:
        return None
    mean, std = mean_std(values)
    half_width = float(stats.t.ppf((1 + confidence) / 2, num - 1)) * (std or 0.0) / math.sqrt(num)
    return mean - half_width, mean + half_width


def minimum_detectable_effect(std: float, num: int) -> float | None:
    """Return the true difference that a test would find in 8 of 10 repeats of the whole experiment; None below three.

    The test is the two-sided paired t test at alpha = 0.05 over `num` seeds, `std` the standard deviation of the
    differences by seed. Its power is that of the noncentral t distribution, not an approximation.
    """
    return std * _detectable_in_stds(num) if num >= MIN_SEEDS else None


def paired_difference(a: pd.Series[float], b: pd.Series[float]) -> PairedDifference | None:
    """Return the mean of a - b over the seeds that both have (index: repetition), or None when they share none."""
    both = pd.concat({"a": a, "b": b}, axis=1, join="inner").dropna()
    differences = (both["a"] - both["b"]).tolist()
    num = len(differences)
    if not num:
        return None
    mean, std = mean_std(differences)
    has_spread = num >= MIN_SEEDS and both["a"].nunique() > 1 and both["b"].nunique() > 1
    return PairedDifference(
        mean=mean,
        num_seeds=num,
        interval=t_interval(differences),
        correlation=float(both["a"].corr(both["b"])) if has_spread else None,
        detectable=minimum_detectable_effect(std, num) if std is not None else None,
    )


@cache
def _detectable_in_stds(num: int) -> float:
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, num - 1)
    # the noncentrality at which t stays below its critical value with 1 - power; the far tail adds less than 1e-5
    return float(special.nctdtrinc(num - 1, 1 - POWER, critical)) / math.sqrt(num)
