"""The comparison in the paper's layout: pairs as columns, base and scale-decoupled methods as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmark.analysis import published, stats
from benchmark.analysis.comparison import comparison as detailed
from benchmark.analysis.decision import Outcome
from benchmark.analysis.gains import is_comparable
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.numbers import (
    FEW_SEEDS_NOTE_WITHOUT_INTERVALS,
    MISSING,
    UNSURE_NOTE,
    rounded,
    signed,
    two_decimals,
)
from benchmark.analysis.published import VANILLA, PublishedTable
from benchmark.analysis.scores import Scores, scores
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from reports.base import Block, Context, Listing, section
from reports.sections.literature import printed_text, tables_of, unsure_mark
from reports.sections.provenance import teacher_cell

#: after a gain
ARROWS = {Outcome.HOLDS: " ↑", Outcome.DOES_NOT_HOLD: " ↓", Outcome.OPEN: ""}


@section("Comparison")
def comparison(context: Context) -> Sequence[Block]:
    """Every accuracy by pair and method, then next to every published table of the suite; nothing without a run."""
    plan, frame = context.plan, context.frame
    pairs = [pair for pair in plan.pairs if any(scores(frame, pair, method).values for method in plan.methods)]
    if not pairs:
        return []
    blocks: list[Block] = [Listing("overview", overview(context, pairs))] if len(pairs) > 1 else []
    accuracy = {model: manifest.test_top1 for model, manifest in context.teachers.items()}
    elsewhere = {"gain", "outcome", "published", "difference"}  # other tables show these
    full = detailed(plan, frame, accuracy, context.dataset, without=elsewhere, measured=context.measured)
    # notes on published tables stand under those tables
    notes = [note for note in full.notes if not note.startswith(tuple(f"{name}: " for name in published.ids()))]
    names = {pair.name for pair in pairs}
    left_out = [section.title for section in full.sections if section.title not in names]
    if left_out:
        notes.append(f"Without a finished run: {', '.join(left_out)}.")
    shown = tuple(section for section in full.sections if section.title in names)
    blocks.append(Listing("comparison", replace(full, sections=shown, notes=tuple(notes))))
    for name in tables_of(plan):
        table = published.load(name)
        of_table = [pair for pair in pairs if pair.name in table.pairs]
        methods = [m for m in in_order(plan) if any(table.value(pair.name, m) for pair in of_table)]
        if methods:
            blocks.append(Listing(f"comparison-{name.replace('/', '-')}", beside(context, table, of_table, methods)))
    return blocks


def in_order(plan: Plan) -> list[str]:
    """Order the plan's methods: the student alone first, every method followed by those whose gain is over it."""
    rest = [method for method in plan.methods if method != VANILLA]

    def followed(base: str) -> list[str]:
        return [base, *(later for method in rest if base_of(method) == base for later in followed(method))]

    roots = [method for method in rest if base_of(method) not in rest]
    return [VANILLA] * (VANILLA in plan.methods) + [method for root in roots for method in followed(root)]


def seeds_text(found: Scores, planned: int) -> str:
    """Write the mean, with the number of seeds where it differs from the planned number, and a mark below three."""
    num = len(found.values)
    if not num:
        return MISSING
    count = f" n={num}" if num != planned else ""
    return two_decimals(found.mean) + count + (f" {FEW_SEEDS}" if num < stats.MIN_SEEDS else "")


def overview(context: Context, pairs: Sequence[Pair]) -> Table:
    """Tabulate the mean `last` of every method on every pair, with its gain and an arrow where that is decided."""
    plan = context.plan
    decided = {(one.comparison.pair.name, one.comparison.method): one for one in context.gains}
    rows = [_teacher_row(context, pairs)] if plan.teachers else []
    for method in in_order(plan):
        cells = [Cell(title_of(method, alone="Student alone"))]
        fields: dict[str, Value] = {"method": method}
        for pair in pairs:
            mine, gain, leader = (
                scores(context.frame, pair, method),
                decided.get((pair.name, method)),
                context.leaders[pair.name],
            )
            decision = gain.decision if gain else None
            difference = decision.difference if decision else None
            text = seeds_text(mine, plan.seeds)
            if decision is not None and difference is not None:
                text += f" ({signed(difference.mean)}{ARROWS[decision.outcome]})"
            is_best = leader is not None and leader.is_bold(method)
            cells.append(Cell(text, gain.run_ids if gain and difference else mine.run_ids, bold=is_best))
            fields |= {
                f"{pair.name} mean": rounded(mean) if (mean := mine.mean) is not None else None,
                f"{pair.name} n": len(mine.values),
                f"{pair.name} gain": rounded(difference.mean) if difference else None,
                f"{pair.name} outcome": decision.word if decision else None,
            }
        rows.append(Row(tuple(cells), fields))
    few = any(0 < len(scores(context.frame, p, m).values) < stats.MIN_SEEDS for p in pairs for m in plan.methods)
    notes = (
        f"Means over {plan.seeds} seed{'s' * (plan.seeds > 1)} after the last epoch; n where there are fewer. In"
        " brackets the gain over the base method (SD-X over X, the others over the student alone): ↑ holds, ↓ does not"
        " hold, no arrow: open. Bold: the best of a pair, where its lead over every other complete method excludes 0.",
        *([f"{plan.profile} profile: a small slice, not a result."] if plan.profile else []),
        *([FEW_SEEDS_NOTE_WITHOUT_INTERVALS] if few else []),
    )
    return Table(
        "Overview.",
        f"Suite {plan.name}, {context.dataset}, top-1 accuracy on the test set in percent.",
        _columns(pairs),
        (Section("", "", tuple(rows)),),
        notes,
    )


def _columns(pairs: Sequence[Pair]) -> tuple[Column, ...]:
    return (Column("Method", "left"), *(Column(pair.name) for pair in pairs))


def _teacher_row(context: Context, pairs: Sequence[Pair]) -> Row:
    cells, fields = [Cell("Teacher")], dict[str, Value](method="teacher")
    for pair in pairs:
        manifest = context.teachers.get(pair.teacher)
        cells.append(teacher_cell(manifest))
        fields[f"{pair.name} mean"] = None if manifest is None else manifest.test_top1
    return Row(tuple(cells), fields)


def beside(context: Context, table: PublishedTable, pairs: Sequence[Pair], methods: Sequence[str]) -> Table:
    """Tabulate our means next to a published table, by its choice of the epoch, with the difference.

    Between them stand the means that the project measured, where it did.
    """
    plan, of_project = context.plan, context.measured
    comparable = is_comparable(plan, context.dataset)
    sections = [Section("Teacher", "", tuple(_teacher_rows(context, table, pairs, comparable)))]
    few = False
    for method in methods:
        column = published.COLUMNS[table.epoch_of(method)]
        value_of = {pair.name: table.value(pair.name, method) for pair in pairs}
        values = {pair.name: scores(context.frame, pair, method, column) for pair in pairs}
        few |= any(0 < len(one.values) < stats.MIN_SEEDS for one in values.values())
        fields: dict[str, Value] = {"table": table.id, "method": method}
        differences: dict[str, float | None] = {}
        for pair in pairs:
            mean, printed = values[pair.name].mean, value_of[pair.name]
            known = comparable and mean is not None and printed is not None
            differences[pair.name] = mean - printed if known and mean is not None and printed is not None else None
            fields |= {
                **({f"{pair.name} measured": of_project.scores(pair, method, column).mean} if of_project else {}),
                f"{pair.name} ours": mean,
                f"{pair.name} n": len(values[pair.name].values),
                f"{pair.name} published": printed,
                f"{pair.name} difference": differences[pair.name],
            }
        # a row that the source copied from one that prints the last epoch
        ours = "ours" if column == published.COLUMNS[table.epoch] else "ours, last epoch"
        lines = [
            [Cell(ours), *(Cell(seeds_text(values[p.name], plan.seeds), values[p.name].run_ids) for p in pairs)],
            *([[Cell("measured"), *(Cell(of_project.text(p, method, column)) for p in pairs)]] * bool(of_project)),
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
        f"{table.title}. {_capitalised(published.WORDS[table.epoch])}: {table.metric}, percent.",
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


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


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
    if context.measured:
        yield f"measured: by the project, {context.measured.place}; n: seeds."
    if table.confidence == "unsure" or table.unsure:
        yield UNSURE_NOTE
    yield f"Source: {table.source}. Selection: {table.selection}."
    yield from table.notes
