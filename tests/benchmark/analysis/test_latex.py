"""LaTeX by its text; what a TeX makes of it is tried in `tests/reports/test_paper.py`."""

from __future__ import annotations

import pytest

from benchmark.analysis.latex import latex
from benchmark.analysis.table import Column, Row, Table
from tests.benchmark.analysis.test_table import SMALL


def test_latex() -> None:
    assert (
        latex(SMALL, "small")
        == r"""% \usepackage{array,booktabs,adjustbox}
\begin{table}
\centering
\caption{A\_B. 50\% of it}
\label{tab:small}
\footnotesize
\setlength{\tabcolsep}{4pt}
\begin{adjustbox}{max width=\linewidth}\begin{tabular}{lr}
\toprule
Method & gain [95\%] \\
\midrule
\multicolumn{2}{l}{\emph{a:b\_1, teacher 79.10}} \\
KD & --- \\
\midrule
\multicolumn{2}{l}{\emph{c|d}} \\
x|y \textsuperscript{\textdaggerdbl} & \textbf{+1.00 [$-$0.10, +2.10]} \\
\bottomrule
\end{tabular}\end{adjustbox}
\par\smallskip\raggedright\scriptsize $\pm$ \& co
\par\smallskip\raggedright\scriptsize \textsuperscript{\textdagger}: few
\end{table}
"""
    )


def test_a_deviation_is_small_and_the_rest_is_kept() -> None:
    row = Row.of("75.61 ± 0.21 †", "+1.02 ± 0.30 (n=2)")
    text = latex(Table.of_rows("T", "", (Column("a"), Column("b")), [row]), "t")
    assert (
        r"75.61{\scriptsize\,$\pm$\,0.21} \textsuperscript{\textdagger} & +1.02{\scriptsize\,$\pm$\,0.30} (n=2)" in text
    )


def test_width_decides_between_one_and_two_columns_and_long_texts_are_folded() -> None:
    narrow = Table.of_rows("T", "", (Column("Method", "left"), Column("a:b")), [Row.of("KD", "75.61")])
    wide = Table.of_rows("T", "", [Column(f"column {n}") for n in range(9)], [Row.of(*["75.61"] * 9)])
    long = Table.of_rows("T", "", (Column("a"), Column("b", "left")), [Row.of("1", "word " * 20)])
    assert r"\begin{table}" in latex(narrow, "t")
    assert r"\shortstack[r]{a\\b}" in latex(narrow, "t")
    assert r"\begin{table*}" in latex(wide, "t")
    # 496 points less 3 characters of 4.2 points
    assert r"\begin{tabular}{r>{\raggedright\arraybackslash}p{483pt}}" in latex(long, "t")


@pytest.mark.parametrize(
    ("title", "subtitle", "caption"),
    [
        ("Failed runs", "of one suite", "Failed runs. of one suite"),
        ("Failed runs.", "of one suite", "Failed runs. of one suite"),
        ("Failed runs.", "", "Failed runs."),
    ],
)
def test_a_title_ends_with_one_full_stop(title: str, subtitle: str, caption: str) -> None:
    assert f"\\caption{{{caption}}}\n" in latex(Table.of_rows(title, subtitle, (Column("method"),), ()), "t")
