"""How far the choice of the reported epoch moves each accuracy and each claim."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pandas as pd

from benchmark.analysis import stats
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE, MISSING, rounded, signed, spread, two_decimals
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from reports import scores
from reports.base import Block, Context, Listing, Text, section
from reports.scores import SELECTIONS, Comparison, Scores, pair_title

_COLUMNS = tuple(Column(one.short) for one in SELECTIONS.values())
#: note on `best_val` where no validation split was held out
NO_SPLIT_NOTE = (
    f"{MISSING} under best on validation: the whole training set was trained on, no split was left to choose by."
)


@section("The choice of the epoch")
def selection(context: Context) -> list[Block]:
    """Accuracy and gain of every method, for each way to choose the epoch."""
    held = all_scores(context.plan, context.frame)
    made = accuracies(context.plan, held)
    if made is None:
        return [
            Text(
                "Missing: no run has finished, so that no epoch can be chosen; this trains them:"
                f" {scores.command(context)}"
            )
        ]
    moved = claims(context.plan, held)
    if moved is None:
        return [Listing("selection", made), Text("Missing: no method and its base have finished under the same seed.")]
    return [Text(summary(context.plan, held)), Listing("selection", made), Listing("selection_gains", moved)]


#: by pair, method and selection
Held = Mapping[tuple[str, str, str], Scores]


def all_scores(plan: Plan, frame: pd.DataFrame) -> Held:
    """Collect every method's accuracies on every pair, for each selection."""
    return {
        (pair.name, method, name): scores.scores(frame, pair, method, name)
        for pair in plan.pairs
        for method in plan.methods
        for name in SELECTIONS
    }


def accuracies(plan: Plan, held: Held) -> Table | None:
    """Tabulate the mean accuracy of every method for each selection; None without a finished run."""
    sections = []
    for pair in plan.pairs:
        rows = []
        for method in plan.methods:
            found = {name: held[pair.name, method, name] for name in SELECTIONS}
            if not any(one.run_ids for one in found.values()):
                continue
            shift = stats.paired_difference(found["best_test"].by_seed, found["last"].by_seed)
            fields: dict[str, Value] = {"pair": pair.name, "method": method}
            for name, one in found.items():
                fields |= {f"{name}_mean": rounded(one.mean), f"{name}_num_seeds": len(one.values)}
            fields["best_test_minus_last"] = rounded(shift.mean) if shift else None
            cells = [Cell(title_of(method)), *(Cell(spread(one.values), one.run_ids) for one in found.values())]
            rows.append(Row((*cells, Cell(signed(shift.mean if shift else None), found["last"].run_ids)), fields))
        if rows:
            sections.append(Section(pair_title(pair.name), "", tuple(rows)))
    if not sections:
        return None
    all_rows = [row.fields for part in sections for row in part.rows]
    notes = ["Test accuracy in percent, mean ± standard deviation over seeds (n - 1)."]
    if any(not row["best_val_num_seeds"] for row in all_rows):
        notes.append(NO_SPLIT_NOTE)
    if any(0 < int(row[f"{name}_num_seeds"] or 0) < stats.MIN_SEEDS for row in all_rows for name in SELECTIONS):
        notes.append(FEW_SEEDS_NOTE)
    columns = (Column("Method", "left"), *_COLUMNS, Column("best on test − last"))
    subtitle = "Best on test is chosen on the test set that it reports, as in the literature."
    return Table("Accuracy by the choice of the epoch", subtitle, columns, tuple(sections), tuple(notes))


def gains(held: Held, comparison: Comparison) -> dict[str, stats.PairedDifference | None]:
    """Gain over the base for each selection, paired over the seeds."""
    pair, method, base = comparison.pair.name, comparison.method, comparison.base
    return {
        name: stats.paired_difference(held[pair, method, name].by_seed, held[pair, base, name].by_seed)
        for name in SELECTIONS
    }


def claims(plan: Plan, held: Held) -> Table | None:
    """Tabulate each gain for each selection, and how far the choice moves it; None without a shared seed."""
    rows: list[tuple[str, Row]] = []
    for comparison in scores.comparisons(plan):
        found = gains(held, comparison)
        if all(gain is None for gain in found.values()):
            continue
        means = {name: gain.mean if gain else None for name, gain in found.items()}
        moved = move(means)
        ids = tuple(
            run_id
            for method in (comparison.method, comparison.base)
            for run_id in held[comparison.pair.name, method, "last"].run_ids
        )
        row = Row.of(
            comparison.label,
            *(Cell(signed(mean), ids if mean is not None else ()) for mean in means.values()),
            two_decimals(moved),
            "yes" if changes_sign(means) else "no",
            pair=comparison.pair.name,
            method=comparison.method,
            base=comparison.base,
            **{f"gain_{name}": rounded(mean) for name, mean in means.items()},
            moved=rounded(moved),
            changes_sign=changes_sign(means),
        )
        rows.append((comparison.pair.name, row))
    if not rows:
        return None
    sections = tuple(
        Section(pair_title(name), "", tuple(row for _, row in part))
        for name, part in groupby(rows, key=lambda named: named[0])
    )
    columns = (
        Column("Gain", "left"),
        *_COLUMNS,
        Column("moved by at most"),
        Column("changes sign", "left"),
    )
    subtitle = "Difference to the base method in points, paired over seeds."
    notes = ("moved: the largest gain less the smallest.",)
    return Table("Gains by the choice of the epoch", subtitle, columns, sections, notes)


def move(means: Mapping[str, float | None]) -> float | None:
    """Largest minus smallest gain over the choices; None with fewer than two choices."""
    known = [mean for mean in means.values() if mean is not None]
    return max(known) - min(known) if len(known) > 1 else None


def changes_sign(means: Mapping[str, float | None]) -> bool:
    """Whether the method is above its base under one choice and below it under another."""
    known = [mean for mean in means.values() if mean is not None]
    return bool(known) and min(known) < 0 < max(known)


def summary(plan: Plan, held: Held) -> str:
    """Say in a sentence how far the choice moves the gains."""
    means = [
        {name: gain.mean if gain else None for name, gain in gains(held, comparison).items()}
        for comparison in scores.comparisons(plan)
    ]
    moves = [moved for moved in map(move, means) if moved is not None]
    if not moves:
        return "Each gain is known by one choice of the epoch only."
    turned = sum(map(changes_sign, means))
    return (
        f"The choice of the epoch moves {len(moves)} gain{'s' if len(moves) > 1 else ''} by"
        f" {sum(moves) / len(moves):.2f} points on average and by {max(moves):.2f} at most; {turned or 'none'} of them"
        f" change{'s' if turned == 1 else ''} sign."
    )
