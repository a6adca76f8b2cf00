"""Each claim of the paper: reproduced, not reproduced, or not tested, by one rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.comparison import is_comparable
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import MISSING, bracketed, rounded, signed, two_decimals
from benchmark.analysis.published.entry import Level
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from reports import scores
from reports.base import Block, Context, Listing, Text, section
from reports.scores import Scores, pair_title
from reports.sections.ablations import PARTS, Ablation, Factor, find_all, level_text, missing
from reports.sections.significance import scope

Outcome = Literal["reproduced", "not reproduced", "not tested"]

RULE = (
    "The rule. A claim is that one choice is better than another; its evidence is the difference in test accuracy after"
    " the last epoch, paired over seeds, with its 95% interval (t from 3 seeds, BCa from 8). Reproduced: the interval"
    " lies above 0. Not reproduced: the interval lies below 0; or it includes 0 although the difference that the test"
    " detects with power 0.8 is at most the published one, so that a gain of that size should have been seen. Not"
    " tested: everything else; fewer than 3 shared seeds, too much spread for the published gain, no published gain to"
    " hold an interval around 0 against, or a small profile or changed settings, which are another experiment. A claim"
    " that one choice is the best is reproduced when it is so against every other published choice, and not reproduced"
    " when it is not so against one of them."
)


@dataclass(frozen=True)
class Evidence:
    """One difference that a claim rests on."""

    #: the difference in words, e.g. `SD-KD − KD`
    label: str
    test: stats.PairedTest | None
    #: in points; None where nothing comparable is printed
    published: float | None
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about a pair, with its evidence; a claim without evidence was not tested."""

    text: str
    pair: str
    evidence: tuple[Evidence, ...]
    #: the reason why no evidence counts, if there is one
    void: str = ""
    #: the part of scale decoupling that the claim is about, if it is about one
    factor: Factor | None = None

    @property
    def outcome(self) -> Outcome:
        """The claim's outcome by the rule."""
        if self.void or not self.evidence:
            return "not tested"
        outcomes = [outcome(one) for one in self.evidence]
        if "not reproduced" in outcomes:
            return "not reproduced"
        return "not tested" if "not tested" in outcomes else "reproduced"


@section("Verdict")
def verdict(context: Context) -> list[Block]:
    """The rule, and every claim by it."""
    plan = context.plan
    found = [
        *method_claims(plan, context.frame, is_comparable(plan, context.dataset)),
        *ablation_claims(plan, find_all(context), context.dataset),
    ]
    blocks: list[Block] = [Text(RULE), Text(summary(found)), Listing("verdict", table(found))]
    untested = [claim.factor for claim in found if claim.factor and not claim.evidence]
    if any(not claim.factor and all(one.test is None for one in claim.evidence) for claim in found):
        blocks.append(Text(f"Some claims have no runs; this trains the methods: {scores.command(context)}"))
    blocks += [Text(f"{PARTS[factor].title}: {missing(factor, context)}") for factor in untested]
    return [*blocks, Text(scope(plan, context.teachers))]


def outcome(evidence: Evidence) -> Outcome:
    """Judge, by the rule, the claim that a difference is positive."""
    test = evidence.test
    if test is None or test.interval is None:
        return "not tested"
    low, high = test.interval
    if low > 0:
        return "reproduced"
    if high < 0:
        return "not reproduced"
    detectable = test.difference.detectable
    if evidence.published is None or detectable is None or detectable > evidence.published:
        return "not tested"
    return "not reproduced"


def why(evidence: Evidence) -> str:
    """Give the reason for an outcome in a few words."""
    test = evidence.test
    if test is None:
        return "no shared seed"
    if test.interval is None:
        return f"{test.difference.num_seeds} of {stats.MIN_SEEDS} seeds"
    if test.interval[0] > 0:
        return "interval above 0"
    if test.interval[1] < 0:
        return "interval below 0"
    if evidence.published is None:
        return "interval includes 0, no published gain"
    if outcome(evidence) == "not reproduced":
        return "interval includes 0, the published gain is detectable"
    return "interval includes 0, the published gain is not detectable"


def void(plan: Plan) -> str:
    """Say why no run of the plan can test a claim; empty when its runs can."""
    if plan.profile:
        return f"{plan.profile} profile: not a result"
    return f"changed: {', '.join(plan.changes)}" if plan.changes else ""


def method_claims(plan: Plan, frame: pd.DataFrame, comparable: bool) -> Iterator[Claim]:
    """Yield the claims that SD-X is better than X, for the paper's three X, pair by pair."""
    for pair in plan.pairs:
        for base in ("kd", "dkd", "nkd"):
            method = f"sdd_{base}"
            a, b = scores.scores(frame, pair, method), scores.scores(frame, pair, base)
            gain = published_gain(plan, pair, method, base) if comparable else None
            label = f"{title_of(method)} − {title_of(base)}"
            text = f"{title_of(method)} is better than {title_of(base)}"
            evidence = _evidence(label, a, b, gain)
            yield Claim(text, pair.name, (evidence,), void(plan))


def published_gain(plan: Plan, pair: Pair, method: str, base: str) -> float | None:
    """Gain computed from a pair's published cells, which is not always the gain that is printed."""
    tables = pair.tables or plan.suite.rebuilds
    values = [published.lookup(tables, pair.name, name) for name in (method, base)]
    # the difference between two sources is a gain of neither
    if values[0] is None or values[1] is None or values[0].table != values[1].table:
        return None
    return values[0].value - values[1].value


def ablation_claims(plan: Plan, found: Sequence[Ablation], dataset: str) -> Iterator[Claim]:
    """Yield the claims about the parts: for every pair with such runs of SD-KD, or once, untested."""
    for factor in PARTS:
        mine: dict[str, Ablation] = {}
        for one in found:
            if one.factor == factor and one.method == "sdd_kd":
                mine.setdefault(one.pair.name, one)
        for pair in plan.pairs:
            if pair.name in mine:
                yield _ablation_claim(plan, mine[pair.name], dataset)
        if not mine:
            yield Claim(_ablation_text(factor, None), "any pair", (), factor=factor)


def claimed_best(factor: Factor, pair: Pair) -> Level:
    """The level that is the best according to the paper."""
    if factor == "beta":
        return 2.0
    if factor == "terms":
        return "both"
    return (1, 2) if are_alike(pair) else (1, 2, 4)


def are_alike(pair: Pair) -> bool:
    """Whether teacher and student are of one family by their names, whatever their blocks: `resnet32x4:resnet8x4`."""
    families = [re.match(r"[a-z]*", name.rpartition("/")[2]) for name in (pair.teacher, pair.student)]
    return len({found[0] for found in families if found}) == 1


def _ablation_text(factor: Factor, pair: Pair | None) -> str:
    if factor == "beta":
        return "weight 2 of complementary regions is the best"
    if factor == "terms":
        return "both kinds of regions are better than each alone"
    if pair is None:
        return "scales {1, 2, 4} are the best for unlike and {1, 2} for like networks"
    kind = "like" if are_alike(pair) else "unlike"
    return f"scales {level_text(claimed_best(factor, pair))} are the best for {kind} networks"


def _ablation_claim(plan: Plan, one: Ablation, dataset: str) -> Claim:
    best = claimed_best(one.factor, one.pair)
    series = published.ablation(PARTS[one.factor].series)
    comparable = is_comparable(plan, dataset) and plan.data.name == series.data
    printed = dict(series.points(one.pair.name)) if comparable else {}
    rivals: list[Level] = ["consistent", "complementary"] if one.factor == "terms" else list(series.levels)
    evidence = []
    for rival in rivals:
        if rival == best:
            continue
        gain = printed[best] - printed[rival] if best in printed and rival in printed else None
        a, b = (one.levels.get(level, Scores(pd.Series(dtype=float), ())) for level in (best, rival))
        evidence.append(_evidence(f"{level_text(best)} − {level_text(rival)}", a, b, gain))
    is_void = f"{plan.profile} profile: not a result" if plan.profile else ""
    return Claim(_ablation_text(one.factor, one.pair), one.pair.name, tuple(evidence), is_void, one.factor)


def _evidence(label: str, a: Scores, b: Scores, gain: float | None) -> Evidence:
    test = stats.paired_test(a.by_seed, b.by_seed)
    return Evidence(label, test, gain, a.run_ids + b.run_ids if test else ())


def summary(claims: Sequence[Claim]) -> str:
    """Count the claims by outcome, and say how many chance alone would call reproduced."""
    counts = pd.Series([claim.outcome for claim in claims]).value_counts()
    parts = [f"{counts.get(one, 0)} {one}" for one in ("reproduced", "not reproduced", "not tested")]
    tested = sum(claim.outcome != "not tested" for claim in claims)
    text = f"Of {len(claims)} claims: {', '.join(parts)}."
    if tested > 1:
        text += (
            f" Each stands by itself: of {tested} claims about methods that do not differ at all, 2.5% would be called"
            " reproduced by chance. The section on significance adjusts for that."
        )
    return text


def table(claims: Sequence[Claim]) -> Table:
    """Tabulate every claim with its evidence."""
    ordered = groupby(claims, key=lambda claim: claim.pair)
    sections = tuple(
        Section(name if name == "any pair" else pair_title(name), "", tuple(row for one in ones for row in _rows(one)))
        for name, ones in ordered
    )
    columns = (
        Column("Claim", "left"),
        Column("verdict", "left"),
        Column("difference", "left"),
        Column("mean [95%]"),
        Column("detectable"),
        Column("published"),
        Column("seeds"),
        Column("because", "left"),
    )
    notes = (
        "In points of top-1 accuracy after the last epoch. published: the difference of the printed accuracies, which"
        f" are of the best epoch on the test set; {MISSING} for other data, a part of it, or changed settings.",
    )
    return Table("The paper's claims", "By the rule above.", columns, sections, notes)


def _rows(claim: Claim) -> Iterator[Row]:
    first: Mapping[str, Value] = {"pair": claim.pair, "claim": claim.text, "verdict": claim.outcome}
    if not claim.evidence:
        outcome = Cell(claim.outcome, bold=True)
        yield Row.of(claim.text, outcome, *[MISSING] * 5, "no runs", **first, because="no runs")
    for number, one in enumerate(claim.evidence):
        difference = one.test.difference if one.test else None
        interval = one.test.interval if one.test else None
        detectable = difference.detectable if difference else None
        because = claim.void or why(one)
        mean = signed(difference.mean if difference else None)
        num_seeds = difference.num_seeds if difference else 0
        low, high = interval or (None, None)
        yield Row.of(
            claim.text if number == 0 else "",
            Cell(claim.outcome if number == 0 else "", bold=number == 0),
            one.label,
            Cell(f"{mean} {bracketed(interval)}" if interval else mean, one.run_ids),
            two_decimals(detectable),
            signed(one.published),
            str(num_seeds),
            because,
            **first,
            difference_of=one.label,
            difference=rounded(difference.mean if difference else None),
            low=rounded(low),
            high=rounded(high),
            detectable=rounded(detectable),
            published=rounded(one.published),
            num_seeds=num_seeds,
            because=because,
            run_ids=" ".join(one.run_ids),
        )
