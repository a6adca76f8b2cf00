"""The differences that the seeds bear out, and the ranks of methods over the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import pandas as pd

from benchmark.analysis import stats
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE, bracketed, p_text, rounded, signed, two_decimals
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table
from benchmark.plan.resolve import Plan
from benchmark.train.teacher_store import Manifest
from reports import scores
from reports.base import Block, Context, Listing, Text, section
from reports.scores import Comparison, pair_title

ALPHA = 1 - stats.CONFIDENCE

Reading = Literal["higher", "lower", "no evidence of a difference", "too few seeds to test", "no spread to test by"]


@dataclass(frozen=True)
class Tested:
    """A comparison with its paired test."""

    comparison: Comparison
    test: stats.PairedTest
    #: p-value, adjusted over all comparisons of the report
    adjusted_p: float | None
    run_ids: tuple[str, ...]

    @property
    def reading(self) -> Reading:
        """The conclusion, at 5% over the whole family."""
        if self.test.difference.num_seeds < stats.MIN_SEEDS:
            return "too few seeds to test"
        if self.adjusted_p is None:
            return "no spread to test by"
        if self.adjusted_p > ALPHA:
            return "no evidence of a difference"
        return "higher" if self.test.difference.mean > 0 else "lower"


@section("Differences that the seeds bear out")
def significance(context: Context) -> list[Block]:
    """Paired differences with intervals, p adjusted over the family, and detectable differences; average ranks."""
    tested = all_tests(context.plan, context.frame)
    if not tested:
        return [
            Text(
                "Missing: no method and its base have finished under the same seed, so that nothing can be compared;"
                f" this trains them: {scores.command(context)}"
            )
        ]
    blocks: list[Block] = [
        Text(summary(tested)),
        Listing("significance", table(tested)),
    ]
    ranks = ranking(context.plan, context.frame)
    blocks.append(
        Listing("ranks", ranks)
        if ranks
        else Text("Missing: no pair has a run of every method that ran, so that none can be ranked.")
    )
    return [*blocks, Text(scope(context.plan, context.teachers))]


def all_tests(plan: Plan, frame: pd.DataFrame) -> list[Tested]:
    """Test every comparison that shares a seed, with p adjusted over all of them."""
    found = []
    for comparison in scores.comparisons(plan):
        a = scores.scores(frame, comparison.pair, comparison.method)
        b = scores.scores(frame, comparison.pair, comparison.base)
        test = stats.paired_test(a.by_seed, b.by_seed)
        if test is not None:
            found.append((comparison, test, a.run_ids + b.run_ids))
    adjusted = stats.holm([test.p for _, test, _ in found])
    return [Tested(one, test, p, ids) for (one, test, ids), p in zip(found, adjusted, strict=True)]


def summary(tested: Sequence[Tested]) -> str:
    """Count the comparisons by their reading; finding no difference is a result too."""
    counts = pd.Series([one.reading for one in tested]).value_counts()
    words = {
        "higher": "the first method is higher",
        "lower": "the first method is lower",
        "no evidence of a difference": "no evidence of a difference",
        "too few seeds to test": f"fewer than {stats.MIN_SEEDS} shared seeds, not tested",
        "no spread to test by": "every seed gave the same difference, not tested",
    }
    parts = [f"{counts[reading]}: {text}" for reading, text in words.items() if reading in counts]
    return f"Of {len(tested)} comparison{'s' if len(tested) > 1 else ''}, {'; '.join(parts)}."


def table(tested: Sequence[Tested]) -> Table:
    """Tabulate the comparisons by pair."""
    columns = (
        Column("Difference in last", "left"),
        Column("mean"),
        Column("95% interval"),
        Column("p"),
        Column("p, Holm"),
        Column("correlation"),
        Column("detectable"),
        Column("seeds"),
        Column("reading", "left"),
    )
    family = sum(one.adjusted_p is not None for one in tested)
    most = max(one.test.difference.num_seeds for one in tested)
    kind = "t intervals" if most < stats.MIN_SEEDS_FOR_BOOTSTRAP else "BCa bootstrap intervals from 8 seeds, else t"
    notes = [
        f"Paired over the seeds that both have, in points of top-1 accuracy; {kind}; p of the two-sided paired t test,"
        f" adjusted by Holm's method over the {family} tests of this table; a reading holds at 5% after it.",
        "Intervals are not adjusted: an interval may exclude 0 where its reading says no evidence.",
        "correlation: between the two methods over the seeds, what pairing gains; detectable: the true difference that"
        " this test finds with power 0.8, from the spread that was measured.",
    ]
    if any(one.test.difference.num_seeds < stats.MIN_SEEDS for one in tested):
        notes.append(FEW_SEEDS_NOTE)
    by_pair = groupby(tested, key=lambda one: one.comparison.pair.name)
    sections = tuple(Section(pair_title(name), "", tuple(map(_row, ones))) for name, ones in by_pair)
    subtitle = "Each scale-decoupled method against its base, each base against the student."
    return Table("Paired differences", subtitle, columns, sections, tuple(notes))


def _row(one: Tested) -> Row:
    difference, test = one.test.difference, one.test
    low, high = test.interval or (None, None)
    mark = f" {FEW_SEEDS}" if difference.num_seeds < stats.MIN_SEEDS else ""
    return Row.of(
        one.comparison.label,
        Cell(signed(difference.mean) + mark, one.run_ids),
        Cell(bracketed(test.interval), one.run_ids if test.interval else ()),
        p_text(test.p),
        Cell(p_text(one.adjusted_p), bold=one.reading in ("higher", "lower")),
        signed(difference.correlation),
        two_decimals(difference.detectable),
        str(difference.num_seeds),
        one.reading,
        pair=one.comparison.pair.name,
        method=one.comparison.method,
        base=one.comparison.base,
        num_seeds=difference.num_seeds,
        difference=rounded(difference.mean),
        low=rounded(low),
        high=rounded(high),
        p=test.p,
        p_holm=one.adjusted_p,
        correlation=rounded(difference.correlation),
        detectable=rounded(difference.detectable),
        reading=one.reading,
        run_ids=" ".join(one.run_ids),
    )


def ranking(plan: Plan, frame: pd.DataFrame) -> Table | None:
    """Tabulate the methods' average ranks by mean `last` over the pairs that have all methods; None without any."""
    by_pair = {
        pair.name: {method: scores.scores(frame, pair, method) for method in plan.methods} for pair in plan.pairs
    }
    present = [method for method in plan.methods if any(of[method].run_ids for of in by_pair.values())]
    means = pd.DataFrame(
        [[of[method].mean for method in present] for of in by_pair.values()], index=list(by_pair), columns=present
    ).astype(float)
    found = stats.average_ranks(means)
    if found is None or len(present) < 2:
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
    missing = [title_of(method) for method in plan.methods if method not in present]
    if missing:
        notes.append(f"Without a finished run: {', '.join(missing)}.")
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
