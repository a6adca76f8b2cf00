"""Tables for papers: their values, and that a TeX sets them inside one and two columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.analysis.latex import latex
from benchmark.analysis.numbers import spread
from benchmark.analysis.scores import scores
from benchmark.analysis.table import Table
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from reports import build
from reports.base import Context, Listing
from reports.paper import tables
from tests.reports import frames, synthetic
from tests.reports.test_report import gathered

#: a two-column paper of 237 and 496 points, the widths of CVPR
PAPER = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[a4paper,textwidth=496pt,columnsep=22pt]{geometry}
\usepackage{array,booktabs,adjustbox}
\extrafloats{200}
\begin{document}
%s
\end{document}
"""


def own(context: Context, *methods: str) -> dict[str, Table]:
    return {one.name: one.table for one in tables(context, methods)}


def test_compact_is_method_by_pair(tmp_path: Path) -> None:
    plan = make_plan(suite.load("cub"))
    context = gathered(plan, synthetic.tracked(plan), tmp_path)
    compact = own(context)["compact"]
    assert [column.header for column in compact.columns] == ["Method", *(pair.name for pair in plan.pairs)]
    shown = frames.shown(compact)
    for pair in plan.pairs:
        assert shown["SD-KD"][pair.name] == spread(scores(context.frame, pair, "sdd_kd").values)


def test_a_row_of_ones_own_stands_under_the_published_ones() -> None:
    context = frames.context(frames.runs("sdd_kd", [75.0, 76.0, 77.0]))
    made = own(context, "sdd_kd")
    table = made["row-sdd_kd-sdd-table2"]
    shown = frames.shown(table)
    assert shown["KD"][frames.PAIR] == "74.07"
    assert shown["SD-KD (ours, best epoch on test)"][frames.PAIR] == "76.50 ± 1.00"
    assert shown["SD-KD (ours, last epoch)"][frames.PAIR] == "76.00 ± 1.00"
    assert "SD-KD" not in shown, "the published row of the same name is not beside ours"


def test_what_a_reader_must_know_of_a_row_stands_under_it() -> None:
    context = frames.context(frames.runs("sdd_kd", [75.0, 76.0]))
    name = "row-sdd_kd-sdd-table2"
    whole = own(context, "sdd_kd")[name]
    assert "best epoch on the test set, as published" in whole.subtitle
    notes = " ".join(whole.notes)
    assert "Of the last epoch: FitNet, RKD, SP, PKT, CRD, KD." in notes
    assert "fewer than 3 seeds" in notes
    assert "not comparable" not in notes
    part = own(replace(context, dataset="cifar100[500 images]"), "sdd_kd")[name]
    assert part.notes[0] == "Ours is on cifar100[500 images]: not comparable with the published rows."
    changed = frames.context(frames.runs("sdd_kd", [75.0]), frames.plan(assignments=["recipe.epochs=1"]))
    assert "with recipe.epochs=1: not comparable" in own(changed, "sdd_kd")[name].notes[0]
    assert "Changed from the suite: recipe.epochs=1." in own(changed)["compact"].notes
    small = frames.context(frames.runs("sdd_kd", [75.0]), frames.plan(profile="smoke"))
    assert "smoke profile: a small slice, not a result" in own(small)["compact"].title
    with pytest.raises(UserError, match="--row sdd_kd: the smoke profile is a small slice"):
        own(small, "sdd_kd")


def test_a_row_that_cannot_be_made_is_a_users_error() -> None:
    with pytest.raises(UserError, match="--row sdd_kt: not a method of this plan; did you mean 'sdd_kd'"):
        own(frames.context(frames.runs("kd", [75.0])), "sdd_kt")
    with pytest.raises(UserError, match=r"no finished run on a pair .*; this trains it: python -m benchmark.run"):
        own(frames.context(frames.runs("kd", [75.0])), "sdd_kd")


def test_hyperparameters_stand_once() -> None:
    context = frames.context(made=frames.plan(methods=("vanilla", "kd", "sdd_kd", "sdd_dkd")))
    found = frames.shown(own(context)["hyperparameters"])
    assert "recipe.epochs 240" in found["All methods"]["settings"]
    assert "sdd.beta 2" in found["All SD- forms"]["settings"]
    assert "kd.temperature 4" in found["KD"]["settings"]
    for line in ("Student", "KD", "SD-KD", "SD-DKD"):
        assert "recipe.epochs" not in found[line]["settings"]
        assert "sdd.beta" not in found[line]["settings"]


NO_TEX = "no TeX with array, booktabs and adjustbox is installed"


def has_tex() -> bool:
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    return all(not subprocess.run(["kpsewhich", f"{one}.sty"], capture_output=True).returncode
               for one in ("array", "booktabs", "adjustbox"))  # fmt: skip


@pytest.mark.skipif(not has_tex(), reason=NO_TEX)
def test_every_table_of_a_report_fits_the_columns_of_a_paper(tmp_path: Path) -> None:
    plan = make_plan(suite.load("cub"))
    context = gathered(plan, synthetic.tracked(plan, tags={"failure_reason": "loss_was {nan} & 100%"}), tmp_path)
    names = ["result", "verdict", "comparison", "selection", "cost", "literature", "coverage", "provenance"]
    report = build.make(context, build.chosen_sections(names), ["sdd_kd"])
    assert not report.faults
    listings = [block for part in report.parts for block in part.blocks if isinstance(block, Listing)]
    listings += report.for_papers
    assert {"compact", "hyperparameters", "comparison", "row-sdd_kd-sdd-table5"} <= {one.name for one in listings}
    text = "\\clearpage\n".join(latex(one.table, one.name) for one in listings)
    (tmp_path / "paper.tex").write_text(PAPER % text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert not re.findall(r"Overfull \\hbox.*", log)
    assert not re.findall(r"LaTeX Warning: Label .* multiply defined", log)
