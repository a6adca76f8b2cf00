"""Tables: one object with writers for Markdown, CSV, the terminal, and plain data; `latex` writes them for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

Value = str | float | int | bool | None

FEW_SEEDS, OTHER_BUDGET, UNSURE, MORE_PARAMETERS = "†", "‡", "?", "§"


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

    def fitted(self, width: int, dispensable: Sequence[str] = ()) -> tuple[Table, tuple[str, ...]]:
        """Leave columns out until a row fits on a line of a terminal; return the rest, and the headers left out.

        `dispensable` are the headers, or how they start, that go first, in this order; then the rightmost ones go. The
        first two columns always stay.
        """
        kept = list(range(len(self.columns)))
        while len(kept) > 2 and _line_width(_widths(self._only(kept))) > width:
            kept.remove(self._least(kept[2:], dispensable))
        left_out = (column.header for place, column in enumerate(self.columns) if place not in kept)
        return self._only(kept), tuple(left_out)

    def _least(self, places: Sequence[int], dispensable: Sequence[str]) -> int:
        for start in dispensable:
            for place in places:
                if self.columns[place].header.startswith(start):
                    return place
        return places[-1]

    def _only(self, places: Sequence[int]) -> Table:
        sections = tuple(
            replace(
                section,
                rows=tuple(replace(row, cells=tuple(row.cells[place] for place in places)) for row in section.rows),
            )
            for section in self.sections
        )
        return replace(self, columns=tuple(self.columns[place] for place in places), sections=sections)

    def to_rich(self) -> RenderableType:
        """Make lines for the terminal, one per row; text is shown as it is, never read as markup.

        A row is not folded: `fitted` makes a table narrower.
        """
        widths = _widths(self)
        lines = [Text(self.title, style="bold"), *([Text(self.subtitle)] if self.subtitle else []), Text()]
        headers = [_words(column.header, width) for column, width in zip(self.columns, widths, strict=True)]
        deepest = max((len(header) for header in headers), default=0)
        for number in range(deepest):  # short headers stand at the bottom
            words = [["", *header][max(0, number - deepest + len(header) + 1)] for header in headers]
            lines.append(self._line([Cell(word) for word in words], widths))
        lines.append(Text("─" * _line_width(widths)))
        for section in self.sections:
            if section.title or section.subtitle:
                parts = [(section.title, "bold"), ("  " if section.title else "", ""), (section.subtitle, "dim")]
                lines.append(Text.assemble(*parts))
            lines += [self._line(row.cells, widths) for row in section.rows]
            lines.append(Text())
        for line in lines:
            line.no_wrap, line.overflow = True, "ignore"
        notes = [Text(note) for note in self.notes]
        return Group(*lines, *notes)

    def _line(self, cells: Sequence[Cell], widths: Sequence[int]) -> Text:
        line = Text()
        for column, cell, width in zip(self.columns, cells, widths, strict=True):
            text = _flat(cell.text)
            gap = " " * (width - cell_len(text))
            before, after = ("", gap) if column.align == "left" else (gap, "")
            line.append(_GAP if line.plain or column is not self.columns[0] else "")
            line.append(before).append(text, _style(cell)).append(after)
        line.rstrip()
        return line

    def show(self, console: Console, full: str, dispensable: Sequence[str] = ()) -> None:
        """Print the table, a line per row; on a narrow terminal with fewer columns, and the place of the full one."""
        shown, left_out = self.fitted(console.width, dispensable)
        console.print(shown.to_rich(), crop=False)
        if left_out:
            console.print(f"{console.width} columns are too few for {', '.join(left_out)}: see {full}")

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


#: between two columns of a terminal
_GAP = "  "


def _widths(table: Table) -> list[int]:
    """Widths of a terminal's columns: of the widest cell, and of the longest word of the header."""
    rows = [row.cells for section in table.sections for row in section.rows]
    return [
        max(
            [
                *(cell_len(word) for word in column.header.split()),
                *(cell_len(_flat(cells[place].text)) for cells in rows),
                0,
            ]
        )
        for place, column in enumerate(table.columns)
    ]


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _words(header: str, width: int) -> list[str]:
    """Put a header on lines of at most `width` cells, broken between words."""
    lines: list[str] = []
    for word in header.split():
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _flat(text: str) -> str:
    """Put a text on one line: a line end would end the row of a table."""
    return " ".join(text.splitlines())


def _markdown(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.bold else cell.text


def _style(cell: Cell) -> str:
    return "bold" if cell.bold else ""


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(_flat(text).replace("|", r"\|") for text in texts) + " |"
