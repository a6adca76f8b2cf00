"""The one rule that decides differences between methods: tables, sections, claims and the summary all use it.

Reference: Benjamini and Yekutieli (2005), https://doi.org/10.1198/016214504000001907
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from benchmark.analysis import stats
from benchmark.analysis.numbers import MISSING, bracketed, percent, signed
from benchmark.analysis.stats import Interval, PairedDifference
from benchmark.analysis.table import FEW_SEEDS

#: share of false decisions among all that are made, on average at most
LEVEL = 0.05
#: more seeds than this are not proposed: a difference that needs them is too small to matter here
MAX_SEEDS = 100

RULE = (
    "The rule. A difference A − B is the mean over the seeds that both have, in points of test accuracy after the last"
    " epoch; its interval is the paired t interval, from 3 seeds on. It holds when the interval lies above 0. It does"
    " not hold when the interval lies below 0, or when it includes 0 and lies below the published gain, so that a gain"
    " of that size is excluded. Otherwise it is open. The confidence of the intervals is chosen for all differences of"
    " a table together (Benjamini and Hochberg; Benjamini and Yekutieli's intervals), so that at most 5% of those that"
    " are decided are decided wrongly, on average. A difference with a published gain on the same data under the same"
    " settings is called reproduced or not reproduced; any other one holds here or does not hold here. A claim that"
    " one choice is the best holds when it does so against every other choice, and does not hold when it fails against"
    " one of them."
)


class Outcome(Enum):
    """The outcome of a claim that A is better than B; the value is the word where nothing published is beside it."""

    HOLDS = "holds here"
    DOES_NOT_HOLD = "does not hold here"
    OPEN = "open"

    def word(self, has_published_gain: bool) -> str:
        """The word for the outcome; `has_published_gain`: whether one stands beside it."""
        return _OF_PUBLISHED[self] if has_published_gain else self.value


_OF_PUBLISHED = {Outcome.HOLDS: "reproduced", Outcome.DOES_NOT_HOLD: "not reproduced", Outcome.OPEN: "open"}


@dataclass(frozen=True)
class Question:
    """A difference that is to be decided, and the published one; None where there is none, or nothing comparable."""

    difference: PairedDifference | None
    published: float | None = None


@dataclass(frozen=True)
class Decision:
    """A difference with its interval and its outcome by the rule."""

    difference: PairedDifference | None
    published: float | None
    #: of the interval; the same for every difference of a family
    confidence: float
    #: None below three seeds, and when every seed gave the same difference
    interval: Interval | None
    #: p-value of the paired t test, and the same adjusted over the family: at most `LEVEL` when decided against 0
    p: float | None
    adjusted_p: float | None
    outcome: Outcome
    because: str

    @property
    def word(self) -> str:
        """The outcome in a word or two."""
        return self.outcome.word(self.has_published_gain)

    @property
    def has_published_gain(self) -> bool:
        """Whether the published difference is a gain: a published loss is no claim that could be reproduced."""
        return self.published is not None and self.published > 0

    @property
    def detectable(self) -> float | None:
        """The true difference that is decided in 8 of 10 repeats at this spread and number of seeds, in points."""
        if self.difference is None or self.difference.std is None:
            return None
        return stats.minimum_detectable_effect(self.difference.std, self.difference.num_seeds, 1 - self.confidence)

    @property
    def seeds(self) -> int | None:
        """Number of seeds that would decide an open difference in 8 of 10 repeats; None where it is decided.

        If the measured difference and its spread over seeds are the true ones. None too when the spread is not
        known, and above `MAX_SEEDS`.
        """
        if self.outcome is not Outcome.OPEN or self.interval is None or self.difference is None:
            return None
        mean, std = self.difference.mean, self.difference.std or 0.0
        # away from 0, or below the published gain: the larger of the two is found first
        effect = max(abs(mean), (self.published or 0.0) - mean)
        return stats.seeds_to_detect(effect, std, 1 - self.confidence, MAX_SEEDS)

    @property
    def text(self) -> str:
        """The difference with its interval, or with a mark when it has too few seeds for one."""
        if self.difference is None:
            return MISSING
        if self.interval is None:
            few = self.difference.num_seeds < stats.MIN_SEEDS
            return signed(self.difference.mean) + (f" {FEW_SEEDS}" if few else "")
        return f"{signed(self.difference.mean)} {bracketed(self.interval)}"

    @property
    def outcome_text(self) -> str:
        """The outcome, with the number of seeds that would decide it."""
        return self.word + (f" (≈ {self.seeds} seeds)" if self.seeds is not None else "")


def decide(questions: Iterable[Question]) -> list[Decision]:
    """Decide differences together, as one family: the confidence of the intervals depends on all of them."""
    asked = list(questions)
    p_values = [stats.paired_p(one.difference.differences) if one.difference else None for one in asked]
    adjusted = stats.benjamini_hochberg(p_values)
    num_tested = sum(p is not None for p in p_values)
    num_found = sum(p is not None and p <= LEVEL for p in adjusted)
    # an interval of this confidence excludes 0 exactly where the adjusted p is at most `LEVEL`
    confidence = 1 - LEVEL * max(num_found, 1) / max(num_tested, 1)
    return [_decision(*one, confidence) for one in zip(asked, p_values, adjusted, strict=True)]


def _decision(question: Question, p: float | None, adjusted_p: float | None, confidence: float) -> Decision:
    difference, published = question.difference, question.published
    interval = interval_of(difference, confidence)
    outcome, because = _judge(difference, interval, adjusted_p, published)
    return Decision(difference, published, confidence, interval, p, adjusted_p, outcome, because)


def interval_of(difference: PairedDifference | None, confidence: float) -> Interval | None:
    """Paired t interval of a difference; None below three seeds, and when every seed gave the same difference."""
    if difference is None or stats.paired_p(difference.differences) is None:
        return None
    return stats.t_interval(difference.differences, confidence)


def _judge(
    difference: PairedDifference | None, interval: Interval | None, adjusted_p: float | None, published: float | None
) -> tuple[Outcome, str]:
    if difference is None:
        return Outcome.OPEN, "no shared seed"
    if difference.num_seeds < stats.MIN_SEEDS:
        return Outcome.OPEN, f"{difference.num_seeds} of at least {stats.MIN_SEEDS} seeds"
    if interval is None or adjusted_p is None:
        return Outcome.OPEN, "every seed gave the same difference: no spread to judge by"
    if adjusted_p <= LEVEL:  # the same as an interval without 0, free of rounding at its end
        above = difference.mean > 0
        return (Outcome.HOLDS, "interval above 0") if above else (Outcome.DOES_NOT_HOLD, "interval below 0")
    if published is None or published <= 0:  # a published loss is no gain that could be excluded
        return Outcome.OPEN, "interval includes 0"
    if interval[1] < published:
        return Outcome.DOES_NOT_HOLD, "includes 0, excludes the published gain"
    return Outcome.OPEN, "interval includes 0, and the published gain"


def combined(decisions: Sequence[Decision]) -> Outcome:
    """The outcome of a claim that rests on several differences: it needs all of them, and one can refute it."""
    outcomes = {one.outcome for one in decisions}
    if Outcome.DOES_NOT_HOLD in outcomes:
        return Outcome.DOES_NOT_HOLD
    return Outcome.HOLDS if outcomes == {Outcome.HOLDS} else Outcome.OPEN


def confidence_text(decisions: Sequence[Decision]) -> str:
    """The confidence of a family's intervals, for the header of a column: `97.5%`."""
    return percent(decisions[0].confidence if decisions else 1 - LEVEL)


def interval_note(decisions: Sequence[Decision]) -> str:
    """Explain the intervals of a table, and what its number of seeds can find at all."""
    tested = sum(one.p is not None for one in decisions)
    found = sum(one.adjusted_p is not None and one.adjusted_p <= LEVEL for one in decisions)
    text = (
        f"[{confidence_text(decisions)}]: paired t intervals, at this confidence so that at most 5% of the table's"
        f" decided differences are wrong on average ({found} of {tested} exclude 0). An interval that includes 0 is no"
        " evidence of a difference."
    )
    seeds = [one.difference.num_seeds for one in decisions if one.difference and one.p is not None]
    if seeds and min(seeds) < 6:
        text += " " + reach(min(seeds), decisions[0].confidence)
    return text


def reach(num: int, confidence: float) -> str:
    """Say what a number of seeds can find at a confidence, in standard deviations of the difference."""
    needed = stats.minimum_detectable_effect(1.0, num, 1 - confidence)
    sign_flip = 2 ** (1 - num)
    return (
        f"With {num} seeds ({num - 1} degrees of freedom) a true difference of {needed:.1f} standard deviations is"
        f" found in 8 of 10 repeats, a smaller one less often; a rank or sign test cannot go below p = {sign_flip:g}."
    )
