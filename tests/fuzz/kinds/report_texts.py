"""Texts of a report: titles, labels and numbers of any kind through Markdown, CSV, LaTeX, the terminal and typst."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark.analysis.latex import latex
from benchmark.analysis.table import Cell, Column, Row, Section, Table
from reports import document, pdf
from reports.base import Listing, Text
from tests.fuzz import nasty

#: one in so many is compiled to a PDF, which takes a tenth of a second
PDFS = 50


def text(rng: random.Random) -> str:
    return nasty.word(rng).replace("\ud800", "")


def generate(rng: random.Random) -> dict[str, Any]:
    return {
        "title": text(rng),
        "labels": [text(rng) for _ in range(rng.randrange(1, 4))],
        "values": [rng.choice((*nasty.FLOATS, None, 3, "x")) for _ in range(3)],
        "pdf": rng.randrange(PDFS) == 0,
    }


def check(case: dict[str, Any], folder: Path) -> None:
    title, labels, values = case.get("title", ""), case.get("labels", []), case.get("values", [])
    rows = [
        Row.of(Cell(label, ("run",), bold=True), str(value), label=label, value=value)
        for label, value in zip(labels, values, strict=False)
    ]
    columns = (Column(title, "left"), Column("value"))
    table = Table(title, title, columns, (Section(title, title, tuple(rows)),))
    latex(table, "t"), table.to_markdown()
    Console(file=io.StringIO(), width=80).print(table.to_rich())
    found = list(csv.DictReader(io.StringIO(table.to_csv(), newline="")))
    assert [row["label"] for row in found] == [" ".join(str(row.fields["label"]).splitlines()) for row in rows]
    part = document.Part("part", title, [Text(title), Listing("table", table)])
    content = document.content(title, title, title, "commit", [part], [title], lambda _: None)
    written = json.dumps(content)
    if case.get("pdf"):
        (folder / pdf.SOURCE).write_bytes(pdf.template())
        (folder / pdf.DATA).write_text(written)
        assert pdf.compiled(folder, 0).startswith(b"%PDF")
