"""How far the choice of the reported epoch moves each gain."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import pandas as pd

from benchmark.analysis import stats
from benchmark.analysis.gains import Comparison, comparisons
from benchmark.analysis.methods import pair_title
from benchmark.analysis.numbers import FEW_SEEDS_NOTE_WITHOUT_INTERVALS, MISSING, rounded, signed, two_decimals
from benchmark.analysis.scores import Scores, scores
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table
from benchmark.plan.resolve import Plan
from reports.base import Block, Context, Listing, Text, section

#: ways to choose the epoch of a run whose accuracy is reported: header by column of the frame, the headline first
SELECTIONS = {"last": "last", "best_val": "best on validation", "best_test": "best on test"}


@section("The choice of the epoch")
def selection(context: Context) -> list[Block]:
    """The gain of every method for each way to choose the epoch; nothing where no gain is known."""
    held = all_scores(context.plan, context.frame)
    moved = claims(context.plan, held)
    return [Text(summary(context.plan, held)), Listing("selection_gains", moved)] if moved else []


#: by pair, method and selection
Held = Mapping[tuple[str, str, str], Scores]


def all_scores(plan: Plan, frame: pd.DataFrame) -> Held:
    """Collect every method's accuracies on every pair, for each selection."""
    return {
        (pair.name, method, name): scores(frame, pair, method, name)
        for pair in plan.pairs
        for method in plan.methods
        for name in SELECTIONS
    }


def gains(held: Held, comparison: Comparison) -> dict[str, stats.PairedDifference | None]:
    """Gain over the base for each selection, paired over the seeds."""
    pair, method, base = comparison.pair.name, comparison.method, comparison.base
    return {
        name: stats.paired_difference(held[pair, method, name].by_seed, held[pair, base, name].by_seed)
        for name in SELECTIONS
    }


def claims(plan: Plan, held: Held) -> Table | None:
    """Tabulate each gain for each selection, and how far the choice moves it; None without a shared seed."""
    shown = [name for name in SELECTIONS if name != "best_val" or plan.data.val_fraction]
    rows: list[tuple[str, Row]] = []
    for comparison in comparisons(plan):
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
            *(Cell(_gain_text(found[name]), ids if found[name] is not None else ()) for name in shown),
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
        *(Column(SELECTIONS[name]) for name in shown),
        Column("moved by at most"),
        Column("changes sign", "left"),
    )
    subtitle = "Difference to the base method in points, paired over seeds."
    notes = ["moved: the largest gain less the smallest. Best on test is chosen on the test set that it reports."]
    if any(FEW_SEEDS in cell.text for _, row in rows for cell in row.cells):
        notes.append(FEW_SEEDS_NOTE_WITHOUT_INTERVALS)
    if not plan.data.val_fraction:
        notes.append("The whole training set was trained on: there is no validation split to choose an epoch by.")
    return Table("Gains by the choice of the epoch", subtitle, columns, sections, tuple(notes))


def _gain_text(gain: stats.PairedDifference | None) -> str:
    if gain is None:
        return MISSING
    return signed(gain.mean) + (f" {FEW_SEEDS}" if gain.num_seeds < stats.MIN_SEEDS else "")


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
        for comparison in comparisons(plan)
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
