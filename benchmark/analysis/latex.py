r"""Tables in LaTeX that fit a column of a paper: `\usepackage{array,booktabs,adjustbox}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmark.analysis.table import FEW_SEEDS, MORE_PARAMETERS, OTHER_BUDGET, Cell, Column, Table

PACKAGES = r"\usepackage{array,booktabs,adjustbox}"
#: characters of `\footnotesize` in a column of a two-column paper (240 pt); a wider table spans both
_COLUMN = 56
#: a text of more characters is folded
_LONG = 44

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "→": r"$\to$", "≈": r"$\approx$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "—": "---",
    FEW_SEEDS: r"\textsuperscript{\textdagger}", OTHER_BUDGET: r"\textsuperscript{\textdaggerdbl}",
    MORE_PARAMETERS: r"\textsuperscript{\S}",
})  # fmt: skip


def latex(table: Table, name: str) -> str:
    r"""Write a table as a float with the label `tab:name`; the packages are `PACKAGES`.

    It spans both columns of a paper where one is too narrow, is scaled down where it would still stick out, and folds
    long texts; notes stand under it in the same width.
    """
    folded = [_is_long(table, place) for place in range(len(table.columns))]
    star = "*" if any(folded) or _width(table, range(len(folded))) > _COLUMN else ""
    caption = " ".join(filter(None, (table.title.rstrip(".") + ".", table.subtitle)))
    lines = [f"% {PACKAGES}", rf"\begin{{table{star}}}", r"\centering", rf"\caption{{{_escaped(caption)}}}"]
    lines += [rf"\label{{tab:{name}}}", r"\footnotesize", r"\setlength{\tabcolsep}{4pt}"]
    align = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{_folded_width(table, folded)}pt}}" if fold else column.align[0]
        for column, fold in zip(table.columns, folded, strict=True)
    )
    begin = rf"\begin{{adjustbox}}{{max width=\linewidth}}\begin{{tabular}}{{{align}}}"
    end = r"\end{tabular}\end{adjustbox}"
    lines += [begin, r"\toprule"]
    if any(column.header for column in table.columns):
        lines.append(_row(map(_header, table.columns)))
    for section in table.sections:
        heading = ", ".join(filter(None, (section.title, section.subtitle)))
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{_escaped(heading)}}}}} \\")
        lines += [_row(map(_cell, row.cells, folded)) for row in section.rows]
    lines += [r"\bottomrule", end]
    lines += [rf"\par\smallskip\raggedright\scriptsize {_breakable(note)}" for note in table.notes]
    return "\n".join([*lines, rf"\end{{table{star}}}"]) + "\n"


def _lengths(table: Table, place: int) -> Iterable[int]:
    yield max(map(len, table.columns[place].header.split(":")))
    for section in table.sections:
        yield from (len(row.cells[place].text) for row in section.rows)


def _is_long(table: Table, place: int) -> bool:
    return max(_lengths(table, place)) > _LONG


def _width(table: Table, places: Iterable[int]) -> int:
    """Characters of the columns at these places; the space between two columns counts as two."""
    return sum(max(_lengths(table, place)) + 2 for place in places)


def _folded_width(table: Table, folded: Sequence[bool]) -> int:
    """Width of a folded column in points: what the others leave of 496 points, at 4.2 points a character."""
    rest = 496 - 4.2 * _width(table, (place for place, fold in enumerate(folded) if not fold))
    return round(max(110.0, rest / sum(folded)))


def _header(column: Column) -> str:
    """A header; `teacher:student` over two lines, as papers print it."""
    parts = column.header.split(":")
    if " " in column.header or len(parts) != 2:
        return _escaped(column.header)
    return rf"\shortstack[{column.align[0]}]{{{_escaped(parts[0])}\\{_escaped(parts[1])}}}"


def _cell(cell: Cell, folded: bool) -> str:
    # mean and deviation alternate: every second part is what stood behind a ±
    parts = re.split(r" ± (\d+\.\d+)", cell.text)
    text = "".join(
        rf"{{\scriptsize\,$\pm$\,{part}}}" if place % 2 else _breakable(part) if folded else _escaped(part)
        for place, part in enumerate(parts)
    )
    return rf"\textbf{{{text}}}" if cell.bold else text


def _row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _escaped(text: str) -> str:
    """Escape a text and put it on one line, with a space at its ends where it has one."""
    return re.sub(r"\s+", " ", text).translate(_LATEX)


def _breakable(text: str) -> str:
    """Escape a text whose long words (`teacher:student`, digests, paths) may be broken without a hyphen."""
    words = []
    for word in text.split(" "):
        pieces = re.findall(r".{1,16}?[/_:=,.@-]|.{1,16}", word) if len(word) > 16 else [word]
        words.append(r"\allowbreak ".join(map(_escaped, pieces)))
    return " ".join(words)
