"""The published tables of the suite, as their sources print them."""

from __future__ import annotations

from collections.abc import Sequence

import distillers
from benchmark import published
from benchmark.comparison import MISSING
from benchmark.published import PublishedTable
from benchmark.table import UNSURE, Cell, Column, Row, Section, Table, Value
from reports.base import Block, Context, Listing, Text, section
from reports.sections.cover import tables_of


@section("Published numbers", place=80)
def literature(context: Context) -> Sequence[Block]:
    """Published tables with source, confidence and notes, and what else is held for this data set."""
    held = tables_of(context.plan)
    blocks: list[Block] = [Listing(f"published-{name.replace('/', '-')}", printed(published.load(name)))
                           for name in held]  # fmt: skip
    if not held:
        blocks.append(Text("No published table holds a pair of this suite."))
    others = _others(context.plan.data.name, held)
    if others is not None:
        blocks.append(Listing("published-others", others))
    return blocks


def title_of(method: str) -> str:
    """Return a method's name as papers print it; a printed name stays as it is."""
    return distillers.registry.get(method).title if method in distillers.registry else method


def printed(table: PublishedTable) -> Table:
    """Return a published table as its source prints it: gains in brackets where it prints them."""
    alone = [("Teacher", "teacher", table.teacher), ("Student", "student", table.student)]
    networks = [
        Row((Cell(name), *(Cell(_number(value)) for value in values)), _fields(table, key, values))
        for name, key, values in alone
        if values is not None
    ]
    rows = []
    for method, values in table.rows.items():
        unsure = f" {UNSURE}" if table.confidence_of(method) == "unsure" else ""
        cells = [Cell(title_of(method) + unsure)]
        for pair, value in zip(table.pairs, values, strict=True):
            gain = table.printed_gain(pair, method)
            text = _number(value) + (f" ({gain:+.2f})".replace("-", "−") if gain is not None else "")
            cells.append(Cell(text))
        rows.append(Row(tuple(cells), _fields(table, method, values)))
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


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _fields(table: PublishedTable, name: str, values: Sequence[float | None]) -> dict[str, Value]:
    return {"table": table.id, "row": name, **dict(zip(table.pairs, values, strict=True))}


def _others(data: str, shown: Sequence[str]) -> Table | None:
    rows = []
    for name, entry in published.entries().items():
        if entry.data != data or name in shown:
            continue
        texts = (name, entry.title, entry.source, entry.confidence, str(len(entry.notes)))
        fields = dict(zip(("id", "title", "source", "confidence", "num_notes"), texts, strict=True))
        rows.append(Row(tuple(map(Cell, texts)), fields))
    if not rows:
        return None
    return Table(
        "Further published numbers that are held.",
        f"On {data}: tables of other pairs, ablations, and repeated runs.",
        (Column("id", "left"), Column("title", "left"), Column("source", "left"), Column("confidence", "left"),
         Column("notes")),
        (Section("", "", tuple(rows)),),
        ("Every number and note is in benchmark/published/*.yaml.",),
    )  # fmt: skip
