"""Every difference and every claim of the paper, decided by one rule that is stated first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.decision import (
    RULE,
    Decision,
    Outcome,
    Question,
    combined,
    confidence_text,
    decide,
    interval_note,
)
from benchmark.analysis.gains import Gain
from benchmark.analysis.methods import pair_title, title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE, MISSING, p_text, rounded, signed, two_decimals
from benchmark.analysis.published.entry import Level
from benchmark.analysis.scores import Scores, scores
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from benchmark.train.teacher_store import Manifest
from reports.base import Block, Context, Listing, Text, section
from reports.sections.ablations import PARTS, Ablation, Factor, find_all, level_text, published_points


@dataclass(frozen=True)
class Evidence:
    """One decided difference that a claim rests on."""

    #: the difference in words, e.g. `{1, 2, 4} − {1, 2}`
    label: str
    decision: Decision
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about a part of scale decoupling on a pair, with its evidence; open without evidence."""

    text: str
    pair: str
    evidence: tuple[Evidence, ...]
    factor: Factor

    @property
    def outcome(self) -> Outcome:
        """The outcome by the rule."""
        return combined([one.decision for one in self.evidence])

    @property
    def word(self) -> str:
        """The outcome in a word or two."""
        decisions = [one.decision for one in self.evidence]
        return self.outcome.word(bool(decisions) and all(one.has_published_gain for one in decisions))


@section("Differences and claims")
def verdict(context: Context) -> list[Block]:
    """The rule, every difference between methods, the paper's claims about the parts, and average ranks."""
    gains = context.gains
    blocks: list[Block] = [Text(RULE)]
    measured = [one for one in gains if one.decision.difference is not None]
    if measured:
        blocks += [Text(summary(gains)), Listing("differences", differences(measured))]
    else:
        blocks.append(Text("No method and its base have finished under the same seed: nothing can be compared yet."))
    claims = claims_of(context)
    tested = [claim for claim in claims if claim.evidence]
    if tested:
        blocks.append(Listing("claims", claim_table(tested)))
    untested = [claim for claim in claims if not claim.evidence]
    if untested:
        named = "; ".join(claim.text for claim in untested)
        blocks.append(Text(f"Open, since no runs vary this part alone: {named}. Ablations has the commands."))
    ranks = ranking(context.plan, context.frame)
    blocks += [Listing("ranks", ranks)] if ranks else []
    return [*blocks, Text(scope(context.plan, context.teachers))]


def summary(gains: Sequence[Gain]) -> str:
    """Count the differences by their outcome."""
    parts = [f"{word}: {number}" for word, number in Counter(one.decision.word for one in gains).most_common()]
    return f"{len(gains)} difference{'s' if len(gains) > 1 else ''} between methods. {'; '.join(parts)}."


def differences(gains: Sequence[Gain]) -> Table:
    """Tabulate the differences between methods by pair."""
    decisions = [one.decision for one in gains]
    has_published = any(one.published is not None for one in decisions)
    columns = (
        Column("Difference in last", "left"),
        Column("mean"),
        Column(f"interval [{confidence_text(decisions)}]"),
        *([Column("published")] if has_published else []),
        Column("p"),
        Column("p, adjusted"),
        Column("corr."),
        Column("detectable"),
        Column("seeds"),
        Column("outcome", "left"),
        Column("because", "left"),
    )
    notes = [
        f"In points of top-1 accuracy after the last epoch, paired over seeds. {interval_note(decisions)}",
        "p: of the two-sided paired t test; adjusted by Benjamini and Hochberg's method over this table: at most 0.05"
        " exactly where the interval excludes 0. corr.: between the two methods over the seeds, what pairing gains."
        " detectable: the true difference that is decided in 8 of 10 repeats, at the measured spread. ≈ seeds: how many"
        " would decide an open one in 8 of 10 repeats, if the measured difference and spread are the true ones.",
    ]
    if has_published:
        notes.append(
            "published: the difference of the printed accuracies, most of which are of the best epoch on the test set."
        )
    if any(one.difference and one.difference.num_seeds < stats.MIN_SEEDS for one in decisions):
        notes.append(FEW_SEEDS_NOTE)
    by_pair = groupby(gains, key=lambda one: one.comparison.pair.name)
    sections = tuple(
        Section(pair_title(name), "", tuple(_difference_row(one, has_published) for one in ones))
        for name, ones in by_pair
    )
    subtitle = "Each scale-decoupled method against its base, each base against the student."
    return Table("Differences between methods", subtitle, columns, sections, tuple(notes))


def _difference_row(gain: Gain, has_published: bool) -> Row:
    decision, comparison = gain.decision, gain.comparison
    mean, _, interval = decision.text.partition(" [")
    difference = decision.difference
    low, high = decision.interval or (None, None)
    return Row.of(
        comparison.label,
        Cell(mean, gain.run_ids),
        Cell(f"[{interval}" if interval else MISSING, gain.run_ids if interval else ()),
        *([Cell(signed(decision.published))] if has_published else []),
        p_text(decision.p),
        p_text(decision.adjusted_p),
        signed(difference.correlation if difference else None),
        two_decimals(decision.detectable),
        str(difference.num_seeds if difference else 0),
        Cell(decision.outcome_text, bold=decision.outcome is not Outcome.OPEN),
        decision.because,
        pair=comparison.pair.name,
        method=comparison.method,
        base=comparison.base,
        num_seeds=difference.num_seeds if difference else 0,
        difference=rounded(difference.mean if difference else None),
        std=rounded(difference.std if difference else None),
        low=rounded(low),
        high=rounded(high),
        confidence=decision.confidence,
        published=rounded(decision.published),
        p=decision.p,
        p_adjusted=decision.adjusted_p,
        correlation=rounded(difference.correlation if difference else None),
        detectable=rounded(decision.detectable),
        outcome=decision.word,
        because=decision.because,
        decided_by_seeds=decision.seeds,
        run_ids=" ".join(gain.run_ids),
    )


def claims_of(context: Context) -> list[Claim]:
    """The paper's claims about the parts: one for every pair with such runs of SD-KD, or one that is open."""
    found = find_all(context)
    claims: list[Claim] = []
    for factor in PARTS:
        mine: dict[str, Ablation] = {}
        for one in found:
            if one.factor == factor and one.method == "sdd_kd":
                mine.setdefault(one.pair.name, one)
        here = [mine[pair.name] for pair in context.plan.pairs if pair.name in mine]
        claims += _claims(context.plan, here, context.dataset) if here else [Claim(_text(factor, None), "", (), factor)]
    return claims


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


def _text(factor: Factor, pair: Pair | None) -> str:
    if factor == "beta":
        return "weight 2 of complementary regions is the best"
    if factor == "terms":
        return "both kinds of regions are better than each alone"
    if pair is None:
        return "scales {1, 2, 4} are the best for unlike and {1, 2} for like networks"
    kind = "like" if are_alike(pair) else "unlike"
    return f"scales {level_text(claimed_best(factor, pair))} are the best for {kind} networks"


def _claims(plan: Plan, found: Sequence[Ablation], dataset: str) -> Iterator[Claim]:
    """Decide the differences of one part on all pairs together, and yield the claim of each pair."""
    asked = [(one, *asking) for one in found for asking in _questions(plan, one, dataset)]
    decisions = decide(question for _, _, question, _ in asked)
    for one in found:
        evidence = tuple(
            Evidence(label, decision, ids)
            for (of, label, _, ids), decision in zip(asked, decisions, strict=True)
            if of is one
        )
        yield Claim(_text(one.factor, one.pair), one.pair.name, evidence, one.factor)


def _questions(plan: Plan, one: Ablation, dataset: str) -> Iterator[tuple[str, Question, tuple[str, ...]]]:
    """Yield the difference of the claimed best to every other published choice: label, question, runs."""
    best = claimed_best(one.factor, one.pair)
    series = published.ablation(PARTS[one.factor].series)
    printed = published_points(plan, dataset, one.factor, one.pair)
    rivals: list[Level] = ["consistent", "complementary"] if one.factor == "terms" else list(series.levels)
    for rival in rivals:
        if rival == best:
            continue
        gain = printed[best] - printed[rival] if best in printed and rival in printed else None
        a, b = (one.levels.get(level, Scores(pd.Series(dtype=float), ())) for level in (best, rival))
        difference = stats.paired_difference(a.by_seed, b.by_seed)
        ids = a.run_ids + b.run_ids if difference else ()
        yield f"{level_text(best)} − {level_text(rival)}", Question(difference, gain), ids


def claim_table(claims: Sequence[Claim]) -> Table:
    """Tabulate claims with the differences that each rests on."""
    decisions = [one.decision for claim in claims for one in claim.evidence]
    columns = (
        Column("Claim", "left"),
        Column("outcome", "left"),
        Column("difference", "left"),
        Column("mean [interval]"),
        Column("published"),
        Column("seeds"),
        Column("because", "left"),
    )
    sections = tuple(
        Section(pair_title(name), "", tuple(row for one in ones for row in _claim_rows(one)))
        for name, ones in groupby(sorted(claims, key=lambda claim: claim.pair), key=lambda claim: claim.pair)
    )
    confidences = ", ".join(sorted({confidence_text([one]) for one in decisions}))
    notes = (
        f"Intervals at {confidences}, chosen for all differences of one part together.",
        "published: the difference of the printed accuracies, of the best epoch on the test set;"
        f" {MISSING} for other data, a part of it, or changed settings.",
    )
    return Table("The paper's claims about the parts", "By the same rule.", columns, sections, notes)


def _claim_rows(claim: Claim) -> Iterator[Row]:
    first: Mapping[str, Value] = {"pair": claim.pair, "claim": claim.text, "outcome": claim.word}
    for number, one in enumerate(claim.evidence):
        decision, difference = one.decision, one.decision.difference
        low, high = decision.interval or (None, None)
        num_seeds = difference.num_seeds if difference else 0
        yield Row.of(
            claim.text if number == 0 else "",
            Cell(claim.word if number == 0 else "", bold=number == 0),
            one.label,
            Cell(decision.text, one.run_ids),
            signed(decision.published),
            str(num_seeds),
            decision.because,
            **first,
            difference_of=one.label,
            difference=rounded(difference.mean if difference else None),
            low=rounded(low),
            high=rounded(high),
            published=rounded(decision.published),
            num_seeds=num_seeds,
            because=decision.because,
            run_ids=" ".join(one.run_ids),
        )


def ranking(plan: Plan, frame: pd.DataFrame) -> Table | None:
    """Tabulate the methods' average ranks by mean `last` over the pairs that have all methods.

    None where there are fewer than two such pairs: the rank on one pair is the order of its means.
    """
    by_pair = {pair.name: {method: scores(frame, pair, method) for method in plan.methods} for pair in plan.pairs}
    present = [method for method in plan.methods if any(of[method].run_ids for of in by_pair.values())]
    means = pd.DataFrame(
        [[of[method].mean for method in present] for of in by_pair.values()], index=list(by_pair), columns=present
    ).astype(float)
    found = stats.average_ranks(means)
    if found is None or len(present) < 2 or found.num_pairs < 2:
        return None
    rows = []
    for method, rank in found.ranks.items():
        ids = tuple(run_id for of in by_pair.values() for run_id in of[str(method)].run_ids)
        fields = {"method": str(method), "average_rank": rounded(float(rank)), "num_pairs": found.num_pairs}
        rows.append(Row((Cell(title_of(str(method))), Cell(two_decimals(rank), ids)), fields))
    notes = [
        f"1 is the best; equal means share their ranks; over {found.num_pairs} of {len(plan.pairs)} pairs,"
        " those with a run of every method shown."
    ]
    if found.p is not None:
        notes.append(
            f"Friedman's test of equal ranks: p {p_text(found.p)}, by an approximation that is rough below ten pairs;"
            " pairs that share a teacher or a student are not independent, which makes it optimistic."
        )
    missing_ones = [title_of(method) for method in plan.methods if method not in present]
    if missing_ones:
        notes.append(f"Without a finished run: {', '.join(missing_ones)}.")
    columns = (Column("Method", "left"), Column("average rank"))
    return Table.of_rows("Average ranks", "By mean top-1 accuracy after the last epoch.", columns, rows, notes)


def scope(plan: Plan, teachers: Mapping[str, Manifest]) -> str:
    """State the scope of the conclusions: the teachers, each from one training."""
    models = list(dict.fromkeys(pair.teacher for pair in plan.pairs))
    named = [f"{model} ({teachers[model].checksum[:12]})" if model in teachers else model for model in models]
    one = len(models) == 1
    return (
        f"Conclusions hold for {'this teacher' if one else 'these teachers'}: {', '.join(named)}."
        f" Seeds vary the student's training; {'the' if one else 'each'} teacher was trained once, and another training"
        " of the same network may favour other methods."
    )
