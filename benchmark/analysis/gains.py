"""The differences that a plan is about, each method to its base on every pair, decided together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.decision import Decision, Question, decide, interval_of
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.scores import Scores, scores
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair


class Comparison(NamedTuple):
    """A method on a pair, and the base that its gain is over."""

    pair: Pair
    method: str
    base: str

    @property
    def label(self) -> str:
        """The difference in words: `SD-KD − KD`."""
        return f"{title_of(self.method)} − {title_of(self.base)}"


@dataclass(frozen=True)
class Gain:
    """The gain of a method over its base, decided."""

    comparison: Comparison
    decision: Decision
    run_ids: tuple[str, ...]


def comparisons(plan: Plan) -> Iterator[Comparison]:
    """Yield the comparisons that a plan makes, pair by pair: SD-X against X, and X against the student alone.

    Without those of a method that cannot run on the pair.
    """
    refused = {(one.pair, one.method) for one in plan.refused}
    for pair in plan.pairs:
        runnable = [method for method in plan.methods if (pair.name, method) not in refused]
        for method in runnable:
            base = base_of(method)
            if base is not None and base in runnable:
                yield Comparison(pair, method, base)


def gains(plan: Plan, frame: pd.DataFrame, dataset: str) -> list[Gain]:
    """Decide every comparison of a plan, as one family.

    `frame` holds the plan's runs, one per row; `dataset` is the name of the images, e.g. `cub200[5 classes]`: published
    gains count where they are comparable.
    """
    comparable = is_comparable(plan, dataset)
    asked, questions, run_ids = list(comparisons(plan)), [], []
    for one in asked:
        a, b = scores(frame, one.pair, one.method), scores(frame, one.pair, one.base)
        difference = stats.paired_difference(a.by_seed, b.by_seed)
        questions.append(Question(difference, published_gain(plan, one) if comparable else None))
        run_ids.append(a.run_ids + b.run_ids if difference else ())
    return [Gain(*one) for one in zip(asked, decide(questions), run_ids, strict=True)]


def is_comparable(plan: Plan, dataset: str) -> bool:
    """Whether these runs may be compared with published values: the unchanged suite on the whole data set it names."""
    return plan.profile is None and not plan.changes and is_whole(plan) and dataset == plan.data.name


def is_whole(plan: Plan) -> bool:
    """Whether a plan uses every image of its data set."""
    return plan.data.num_train is None and plan.data.num_test is None


def published_gain(plan: Plan, one: Comparison) -> float | None:
    """Gain computed from two published cells, which is not always the gain that is printed.

    Both are of one table, the first on the plan's data set that has them: the difference between two sources is a gain
    of neither.
    """
    for table in map(published.load, plan.suite.tables_of(one.pair)):
        value, of_base = (table.value(one.pair.name, name) for name in (one.method, one.base))
        if table.data == plan.data.name and value is not None and of_base is not None:
            return value - of_base
    return None


@dataclass(frozen=True)
class Best:
    """The method with the highest mean on a pair among those with all their seeds, and the one behind it."""

    method: str
    scores: Scores
    second: str
    lead: stats.PairedDifference
    #: of the lead, at the confidence of the plan's gains
    interval: stats.Interval | None
    #: whether its lead over every other method excludes 0: else it is the best by its mean only
    is_separated: bool

    def is_bold(self, method: str) -> bool:
        """Whether a method's mean is printed bold: the best, and by the rule."""
        return self.is_separated and self.method == method


def leaders(plan: Plan, frame: pd.DataFrame, decided: Sequence[Gain]) -> dict[str, Best | None]:
    """Find the best method of every pair, by name, at the confidence of the plan's gains.

    None with fewer than two complete methods, and for a small profile. That the best is chosen by its mean needs no
    correction: Hung and Fithian (2019), https://arxiv.org/abs/1610.03944.
    """
    confidence = decided[0].decision.confidence if decided else stats.CONFIDENCE
    return {pair.name: None if plan.profile else _best(plan, frame, pair, confidence) for pair in plan.pairs}


def _best(plan: Plan, frame: pd.DataFrame, pair: Pair, confidence: float) -> Best | None:
    found = {method: scores(frame, pair, method) for method in plan.methods}
    complete = {m: one for m, one in found.items() if one.mean is not None and len(one.values) == plan.seeds}
    if len(complete) < 2:
        return None
    first, *others = sorted(complete, key=lambda method: -(complete[method].mean or 0.0))
    leads = [stats.paired_difference(complete[first].by_seed, complete[other].by_seed) for other in others]
    intervals = [interval_of(lead, confidence) for lead in leads]
    if leads[0] is None:
        return None
    separated = all(interval is not None and interval[0] > 0 for interval in intervals)
    return Best(first, complete[first], others[0], leads[0], intervals[0], separated)
