"""The published tables of the suite, as their sources print them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.analysis import published
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import signed, two_decimals
from benchmark.analysis.published import PublishedTable
from benchmark.analysis.table import UNSURE, Column, Row, Section, Table, Value
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from reports.base import Block, Context, Listing, section


@section("Published and measured numbers")
def literature(context: Context) -> Sequence[Block]:
    """What the project measured, published tables with source, confidence and notes, other entries on this data set."""
    held = tables_of(context.plan)
    blocks: list[Block] = [Listing("measured", measured(context))] if context.measured else []
    blocks += [Listing(f"published-{name.replace('/', '-')}", printed(published.load(name))) for name in held]
    others = _others(context.plan.data.name, held)
    if others is not None:
        blocks.append(Listing("published-others", others))
    return blocks


def measured(context: Context) -> Table:
    """Tabulate what the project measured under the settings of the plan: method by pair, last and best epoch."""
    found, rows = context.measured, []
    for method in context.plan.methods:
        for column, words in (("last", "last epoch"), ("best_test", "best epoch on test")):
            cells = [f"{title_of(method, alone='Student alone')} ({words})"]
            fields = dict[str, Value](method=method, selection=column)
            for pair in context.plan.pairs:
                figures = found.scores(pair, method, column)
                cells.append(found.text(pair, method, column))
                fields |= {f"{pair.name} mean": figures.mean, f"{pair.name} std": figures.std}
                fields[f"{pair.name} n"] = len(figures.values)
            rows.append(Row.of(*cells, **fields))
    return Table.of_rows(
        "Measured by the project.",
        f"Top-1 accuracy on the test set of {context.dataset} in percent, under the settings of this report.",
        (Column("Method", "left"), *(Column(pair.name) for pair in context.plan.pairs)),
        rows,
        found.notes(context.frame),
    )


def tables_of(plan: Plan) -> list[str]:
    """Ids of the published tables that a plan's pairs are compared with, the suite's own first.

    Of its further tables those that print a chosen method where the tables before them do not.
    """
    named = [*plan.suite.rebuilds, *(table for pair in plan.pairs for table in pair.tables)]
    held = list(dict.fromkeys(table for table in named if any(_holds(table, pair) for pair in plan.pairs)))
    for further in plan.suite.further:
        if further not in held and _adds(further, held, plan):
            held.append(further)
    return held


def _holds(table: str, pair: Pair) -> bool:
    return pair.name in published.load(table).pairs


def _adds(further: str, held: Sequence[str], plan: Plan) -> bool:
    table = published.load(further)
    cells = ((pair.name, method) for pair in plan.pairs for method in plan.methods)
    return any(table.value(*cell) is not None and published.lookup(held, *cell) is None for cell in cells)


def printed(table: PublishedTable) -> Table:
    """Tabulate a published table as its source prints it: gains in brackets where it prints them."""
    alone = [("Teacher", "teacher", table.teacher), ("Student", "student", table.student)]
    networks = [
        Row.of(name, *map(two_decimals, values), **_fields(table, key, values))
        for name, key, values in alone
        if values is not None
    ]
    rows = []
    for method, values in table.rows.items():
        texts = (title_of(method) + unsure_mark(table, method), *(printed_text(table, p, method) for p in table.pairs))
        rows.append(Row.of(*texts, **_fields(table, method, values)))
    confidence = {"read": "read in the named source", "unsure": "second-hand, derived or partly legible"}
    notes = [f"Source: {table.source}. Selection: {table.selection}. Confidence: {confidence[table.confidence]}."]
    if table.unsure:
        notes.append(f"{UNSURE} a row of less confidence: second-hand, derived or partly legible.")
    return Table(
        f"{table.id}: {table.title}.",
        f"As printed: {table.metric}, {table.unit}.",
        (Column("", "left"), *(Column(pair) for pair in table.pairs)),
        tuple(Section("", "", tuple(part)) for part in (networks, rows) if part),
        (*notes, *table.notes),
    )


def printed_text(table: PublishedTable, pair: str, method: str) -> str:
    """Write a method's accuracy on a pair as a table prints it, with its deviation and gain where those are printed."""
    value, gain, std = table.value(pair, method), table.printed_gain(pair, method), table.printed_std(pair, method)
    if value is None:
        return two_decimals(value)
    deviation = f" ± {two_decimals(std)}" if std is not None else ""
    return two_decimals(value) + deviation + (f" ({signed(gain)})" if gain is not None else "")


def unsure_mark(table: PublishedTable, method: str) -> str:
    """The mark of a row of less confidence, or an empty string."""
    return f" {UNSURE}" if table.confidence_of(method) == "unsure" else ""


def _fields(table: PublishedTable, name: str, values: Sequence[float | None]) -> dict[str, Value]:
    return {"table": table.id, "row": name, **dict(zip(table.pairs, values, strict=True))}


def _others(data: str, shown: Sequence[str]) -> Table | None:
    rows = []
    for name, entry in published.entries().items():
        if entry.data != data or name in shown:
            continue
        texts = (name, entry.title, entry.source, entry.confidence, str(len(entry.notes)))
        fields = dict(zip(("id", "title", "source", "confidence", "num_notes"), texts, strict=True))
        rows.append(Row.of(*texts, **fields))
    if not rows:
        return None
    columns = (*(Column(name, "left") for name in ("id", "title", "source", "confidence")), Column("notes"))
    return Table.of_rows(
        "Further published numbers.",
        f"On {data}: tables of other pairs, ablations, and repeated runs.",
        columns,
        rows,
        ("Every number and note is in benchmark/analysis/published/*.yaml.",),
    )
