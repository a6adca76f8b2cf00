"""Tables: one object with writers for Markdown, CSV, the terminal, and plain data; `latex` writes them for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import rich.table
from rich import box
from rich.text import Text

Value = str | float | int | bool | None

FEW_SEEDS, OTHER_BUDGET, UNSURE = "†", "‡", "?"


@dataclass(frozen=True)
class Column:
    """The header and alignment of a column."""

    header: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Cell:
    """The text and style of a cell, and the runs that it was computed from."""

    text: str
    run_ids: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """A row: the cells to show, and the same values as CSV fields with full numbers."""

    cells: tuple[Cell, ...]
    fields: Mapping[str, Value]

    @classmethod
    def of(cls, *cells: Cell | str, **fields: Value) -> Row:
        """Make a row of cells and fields; a plain text becomes a cell without runs."""
        return cls(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), fields)


@dataclass(frozen=True)
class Section:
    """Rows under a heading of their own."""

    title: str
    subtitle: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table in sections with notes under it."""

    title: str
    subtitle: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of_rows(
        cls, title: str, subtitle: str, columns: Iterable[Column], rows: Iterable[Row], notes: Iterable[str] = ()
    ) -> Table:
        """Make a table of one section without a title."""
        return cls(title, subtitle, tuple(columns), (Section("", "", tuple(rows)),), tuple(notes))

    def to_markdown(self) -> str:
        """Write GitHub Markdown: a heading and a table for every section, notes as a list."""
        header = _markdown_row(column.header for column in self.columns)
        rule = "|" + "|".join(" :--- " if column.align == "left" else " ---: " for column in self.columns) + "|"
        blocks = [f"## {self.title}", self.subtitle]
        for section in self.sections:
            rows = (_markdown_row(map(_markdown, row.cells)) for row in section.rows)
            heading = f"### {section.title}" if section.title else ""
            blocks += [heading, section.subtitle, "\n".join([header, rule, *rows])]
        blocks.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(block for block in blocks if block) + "\n"

    def to_csv(self) -> str:
        """Write tidy CSV: one line per row, every number in its own field, missing numbers empty."""
        rows = [
            {name: _flat(value) if isinstance(value, str) else value for name, value in row.fields.items()}
            for section in self.sections
            for row in section.rows
        ]
        names = list(dict.fromkeys(name for fields in rows for name in fields))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_rich(self) -> rich.table.Table:
        """Make a rich table for the terminal; text is shown as it is, never read as markup."""
        shown = rich.table.Table(
            title=Text("\n".join(filter(None, (self.title, self.subtitle)))),
            caption=Text("\n".join(self.notes)),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for column in self.columns:
            shown.add_column(Text(column.header), justify=column.align, overflow="fold", no_wrap=column.align == "left")
        for section in self.sections:
            shown.add_row(Text.assemble((section.title, "bold"), "\n", (section.subtitle, "dim")))
            for row in section.rows:
                shown.add_row(*(Text(cell.text, style=_style(cell)) for cell in row.cells))
            shown.add_section()
        return shown

    def to_typst(self, link: Callable[[tuple[str, ...]], str | None] = lambda run_ids: None) -> dict[str, Any]:
        """Convert the table to data for a typst template, which never reads its texts as markup.

        `link` maps the runs behind a cell to their address, or to None.
        """
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "columns": [{"header": column.header, "align": column.align} for column in self.columns],
            "sections": [
                {
                    "title": section.title,
                    "subtitle": section.subtitle,
                    "rows": [
                        [
                            {
                                "text": cell.text,
                                "bold": cell.bold,
                                "link": link(cell.run_ids) if cell.run_ids else None,
                            }
                            for cell in row.cells
                        ]
                        for row in section.rows
                    ],
                }
                for section in self.sections
            ],
            "notes": list(self.notes),
        }


def _flat(text: str) -> str:
    """Put a text on one line: a line end would end the row of a table."""
    return " ".join(text.splitlines())


def _markdown(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.bold else cell.text


def _style(cell: Cell) -> str:
    return "bold" if cell.bold else ""


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(_flat(text).replace("|", r"\|") for text in texts) + " |"
