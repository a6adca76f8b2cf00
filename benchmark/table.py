"""Tables: one object with writers for Markdown, CSV, LaTeX and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import rich.table
from rich import box
from rich.text import Text

Value = str | float | int | bool | None

FEW_SEEDS, OTHER_BUDGET, UNSURE = "†", "‡", "?"

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "→": r"$\to$", "—": "---",
    FEW_SEEDS: r"\textsuperscript{\textdagger}", OTHER_BUDGET: r"\textsuperscript{\textdaggerdbl}",
})  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column as it is shown."""

    header: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown, and the runs it was computed from."""

    text: str
    run_ids: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """One line: the cells that are shown, and the same as fields with numbers in full for CSV."""

    cells: tuple[Cell, ...]
    fields: Mapping[str, Value]


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

    def to_markdown(self) -> str:
        """Return GitHub Markdown: a heading and a table for every section, notes as a list."""
        header = _markdown_row(column.header for column in self.columns)
        rule = "|" + "|".join(" :--- " if column.align == "left" else " ---: " for column in self.columns) + "|"
        blocks = [f"## {self.title}", self.subtitle]
        for section in self.sections:
            rows = (
                _markdown_row(f"**{cell.text}**" if cell.bold else cell.text for cell in row.cells)
                for row in section.rows
            )
            blocks += [f"### {section.title}", section.subtitle, "\n".join([header, rule, *rows])]
        blocks.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(block for block in blocks if block) + "\n"

    def to_csv(self) -> str:
        """Return tidy CSV: one line per row, every number in a field of its own, empty where there is none."""
        rows = [row.fields for section in self.sections for row in section.rows]
        names = list(dict.fromkeys(name for fields in rows for name in fields))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_latex(self) -> str:
        """Return a LaTeX table for the packages booktabs and textcomp."""
        align = "".join(column.align[0] for column in self.columns)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.title)}. {_latex(self.subtitle)}}}"]
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines.append(_latex_row(_latex(column.header) for column in self.columns))
        for section in self.sections:
            heading = ", ".join(filter(None, (section.title, section.subtitle)))
            lines += [r"\midrule", rf"\multicolumn{{{len(self.columns)}}}{{l}}{{\emph{{{_latex(heading)}}}}} \\"]
            for row in section.rows:
                cells = (rf"\textbf{{{_latex(cell.text)}}}" if cell.bold else _latex(cell.text) for cell in row.cells)
                lines.append(_latex_row(cells))
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def to_rich(self) -> rich.table.Table:
        """Return the table for a terminal; text is taken as it is, never as markup."""
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
                shown.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row.cells))
            shown.add_section()
        return shown


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _latex(text: str) -> str:
    return text.translate(_LATEX)
