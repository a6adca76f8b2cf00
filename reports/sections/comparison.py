"""The comparison in the paper's layout: pairs as columns, base and scale-decoupled methods as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.comparison import comparison as detailed
from benchmark.analysis.comparison import is_comparable
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE_WITHOUT_INTERVALS, MISSING, signed, two_decimals, unmarked_spread
from benchmark.analysis.published import VANILLA, PublishedTable
from benchmark.analysis.table import FEW_SEEDS, UNSURE, Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from reports.base import Block, Context, Listing, section
from reports.scores import SELECTIONS, Scores, scores, teacher_cell
from reports.sections.literature import printed_text, tables_of, unsure_mark


@section("Comparison")
def comparison(context: Context) -> Sequence[Block]:
    """Our results by themselves, then next to every published table of the suite, then in full with intervals."""
    blocks: list[Block] = [Listing("comparison", ours(context))]
    for name in tables_of(context.plan):
        table = published.load(name)
        methods = [m for m in in_order(context.plan) if any(table.value(p.name, m) for p in context.plan.pairs)]
        if methods:
            blocks.append(Listing(f"comparison-{name.replace('/', '-')}", beside(context, table, methods)))
    accuracy = {model: manifest.test_top1 for model, manifest in context.teachers.items()}
    full = detailed(context.plan, context.frame, accuracy, context.dataset)
    # notes on published tables stand under those tables
    notes = tuple(note for note in full.notes if not note.startswith(tuple(f"{name}: " for name in published.ids())))
    blocks.append(Listing("comparison-in-full", replace(full, title=f"In full: {full.title}.", notes=notes)))
    return blocks


def in_order(plan: Plan) -> list[str]:
    """Order the plan's methods: the student alone first, every method followed by those whose gain is over it."""
    rest = [method for method in plan.methods if method != VANILLA]

    def followed(base: str) -> list[str]:
        return [base, *(later for method in rest if base_of(method) == base for later in followed(method))]

    roots = [method for method in rest if base_of(method) not in rest]
    return [VANILLA] * (VANILLA in plan.methods) + [method for root in roots for method in followed(root)]


def seeds_text(found: Scores, planned: int) -> str:
    """Write mean ± std, with the number of seeds where it differs from the planned number, and a mark below three."""
    num = len(found.values)
    if not num:
        return MISSING
    count = f" n={num}" if num != planned else ""
    return unmarked_spread(found.values) + count + (f" {FEW_SEEDS}" if num < stats.MIN_SEEDS else "")


def ours(context: Context) -> Table:
    """Tabulate our own results by pair, for each way to choose the epoch."""
    plan = context.plan
    sections = [Section("", "", (_teacher_row(context),))] if plan.teachers else []
    for selection, (_, title) in SELECTIONS.items():
        if selection == "best_val" and not plan.data.val_fraction:
            subtitle = "the full training set was used: there is no such split"
            dashes = Row((Cell("Every method"), *(Cell(MISSING) for _ in plan.pairs)), {"selection": selection})
            sections.append(Section(title, subtitle, (dashes,)))
            continue
        sections.append(Section(title, "", tuple(_rows(plan, context.frame, selection))))
    notes = [
        f"Mean ± standard deviation over {plan.seeds} seed{'s' * (plan.seeds > 1)} (n - 1); n where there are fewer."
        " In brackets: the gain over the row's own base"
        " (SD-X over X) in our runs, over the seeds that both have."
        " Bold: the best of a column, underlined: the second, among methods with all their seeds.",
    ]
    if plan.seeds < stats.MIN_SEEDS or any(FEW_SEEDS in c.text for s in sections for r in s.rows for c in r.cells):
        notes.append(FEW_SEEDS_NOTE_WITHOUT_INTERVALS)
    if plan.profile:
        notes.append(f"{plan.profile} profile: a small slice, not a result.")
    return Table(
        "Our runs.",
        f"Suite {plan.name}, {context.dataset}, top-1 accuracy on the test set in percent.",
        _columns(plan.pairs),
        tuple(sections),
        tuple(notes),
    )


def _columns(pairs: Sequence[Pair]) -> tuple[Column, ...]:
    return (Column("Method", "left"), *(Column(pair.name) for pair in pairs))


def _teacher_row(context: Context) -> Row:
    cells, fields = [Cell("Teacher")], dict[str, Value](selection="", method="teacher")
    for pair in context.plan.pairs:
        manifest = context.teachers.get(pair.teacher)
        cells.append(teacher_cell(manifest))
        fields[pair.name] = None if manifest is None else manifest.test_top1
    return Row(tuple(cells), fields)


def _rows(plan: Plan, frame: pd.DataFrame, selection: str) -> Iterator[Row]:
    methods = in_order(plan)
    values = {(p.name, m): scores(frame, p, m, selection) for p in plan.pairs for m in methods}
    ranks = {pair.name: _ranks(plan, {m: values[pair.name, m] for m in methods}) for pair in plan.pairs}
    for method in methods:
        cells = [Cell(title_of(method, alone="Student alone"))]
        fields: dict[str, Value] = {"selection": selection, "method": method}
        for pair in plan.pairs:
            mine, base = values[pair.name, method], base_of(method)
            of_base = values.get((pair.name, base)) if base not in (None, VANILLA) else None
            gain = stats.paired_difference(mine.by_seed, of_base.by_seed) if of_base is not None else None
            rank = ranks[pair.name].get(method)
            text = seeds_text(mine, plan.seeds) + (f" ({signed(gain.mean)})" if gain else "")
            ids = mine.run_ids + (of_base.run_ids if gain and of_base is not None else ())
            cells.append(Cell(text, ids, bold=rank == 1, underlined=rank == 2))
            fields |= {
                f"{pair.name} mean": mine.mean,
                f"{pair.name} std": mine.std,
                f"{pair.name} n": len(mine.values),
                f"{pair.name} gain": gain.mean if gain else None,
            }
        yield Row(tuple(cells), fields)


def _ranks(plan: Plan, values: Mapping[str, Scores]) -> dict[str, int]:
    """Rank the best mean 1 and the second 2, as printed and with equal ranks for equals; empty for a small profile."""
    means = {m: round(v.mean, 2) for m, v in values.items() if v.mean is not None and len(v.values) == plan.seeds}
    if plan.profile is not None or len(means) < 2:
        return {}
    places = sorted(set(means.values()), reverse=True)[:2]
    return {method: places.index(mean) + 1 for method, mean in means.items() if mean in places}


def beside(context: Context, table: PublishedTable, methods: Sequence[str]) -> Table:
    """Tabulate our results next to a published table, by the literature's choice of the epoch, with the difference."""
    plan = context.plan
    pairs = [pair for pair in plan.pairs if pair.name in table.pairs]
    comparable = is_comparable(plan, context.dataset)
    sections = [Section("Teacher", "", tuple(_teacher_rows(context, table, pairs, comparable)))]
    few = False
    for method in methods:
        value_of = {pair.name: table.value(pair.name, method) for pair in pairs}
        values = {pair.name: scores(context.frame, pair, method, "best_test") for pair in pairs}
        few |= any(0 < len(one.values) < stats.MIN_SEEDS for one in values.values())
        fields: dict[str, Value] = {"table": table.id, "method": method}
        differences: dict[str, float | None] = {}
        for pair in pairs:
            mean, printed = values[pair.name].mean, value_of[pair.name]
            known = comparable and mean is not None and printed is not None
            differences[pair.name] = mean - printed if known and mean is not None and printed is not None else None
            fields |= {
                f"{pair.name} ours": mean,
                f"{pair.name} n": len(values[pair.name].values),
                f"{pair.name} published": printed,
                f"{pair.name} difference": differences[pair.name],
            }
        lines = [
            [Cell("ours"), *(Cell(seeds_text(values[p.name], plan.seeds), values[p.name].run_ids) for p in pairs)],
            [
                Cell(f"published{unsure_mark(table, method)}"),
                *(Cell(printed_text(table, p.name, method)) for p in pairs),
            ],
            [Cell("difference"), *(_difference(differences[p.name], values[p.name].run_ids) for p in pairs)],
        ]
        rows = tuple(Row(tuple(line), fields if place == 0 else {}) for place, line in enumerate(lines))
        sections.append(Section(title_of(method, alone="Student alone"), "", rows))
    return Table(
        f"Next to {table.id}.",
        f"{table.title}. Best epoch on the test set, as published: {table.metric}, percent.",
        _columns(pairs),
        tuple(sections),
        tuple(_notes(context, table, pairs, comparable, few)),
    )


def _teacher_rows(context: Context, table: PublishedTable, pairs: Sequence[Pair], comparable: bool) -> Iterator[Row]:
    own = {pair.name: context.teachers.get(pair.teacher) for pair in pairs}
    printed = {pair.name: table.teacher_value(pair.name) for pair in pairs}
    fields: dict[str, Value] = {"table": table.id, "method": "teacher"}
    ours_, published_, difference = [Cell("ours")], [Cell("published")], [Cell("difference")]
    for pair in pairs:
        manifest, value = own[pair.name], printed[pair.name]
        gap = manifest.test_top1 - value if comparable and manifest is not None and value is not None else None
        ours_.append(teacher_cell(manifest))
        published_.append(Cell(two_decimals(value)))
        difference.append(_difference(gap, ours_[-1].run_ids))
        fields |= {f"{pair.name} ours": manifest.test_top1 if manifest else None, f"{pair.name} published": value}
    yield from (
        Row(tuple(line), fields if place == 0 else {}) for place, line in enumerate((ours_, published_, difference))
    )


def _difference(value: float | None, ids: tuple[str, ...]) -> Cell:
    return Cell(MISSING) if value is None else Cell(signed(value), ids)


def _notes(
    context: Context, table: PublishedTable, pairs: Sequence[Pair], comparable: bool, few: bool
) -> Iterator[str]:
    stored = {pair.teacher: context.teachers.get(pair.teacher) for pair in pairs}
    others = sorted(model for model, one in stored.items() if one is None or one.origin == "trained")
    if not comparable:
        yield "No difference is given: a profile, a part of the data set or changed settings are not comparable."
    elif others and len(context.frame):
        yield (
            f"Differences are under another teacher: {', '.join(others)} {'is' if len(others) == 1 else 'are'} not the"
            " published weights, but trained here. Gains over the own base carry over, absolute differences less so."
        )
    if few:
        yield FEW_SEEDS_NOTE_WITHOUT_INTERVALS
    if table.confidence == "unsure" or table.unsure:
        yield f"{UNSURE} published value of unsure confidence: second-hand, derived or partly legible."
    yield f"Source: {table.source}. Selection: {table.selection}."
    yield from table.notes
