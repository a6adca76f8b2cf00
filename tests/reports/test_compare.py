"""Two suites, or two commits of one, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from benchmark.analysis.table import Table
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Tracked, Tracker
from reports import build
from reports.base import Context, Listing
from reports.compare import compared
from reports.gather import gather
from reports.write import write
from tests.reports import pdf_text, synthetic

NEW, OLD = "a" * 40, "b" * 40


def plan_of(name: str) -> Plan:
    return make_plan(suite.load(name), methods=["vanilla", "kd"])


def context_of(name: str, runs: list[Tracked], folder: Path) -> Context:
    plan = plan_of(name)
    return gather([plan], cast(Tracker, synthetic.Store(runs, plan.slug)), **synthetic.nowhere(folder))


def table_of(report: build.Report) -> Table:
    return next(block.table for block in report.parts[0].blocks if isinstance(block, Listing))


def test_two_commits(tmp_path: Path) -> None:
    plan = plan_of("digits")
    old = [
        run for run in synthetic.tracked(plan, metrics={"final/last": 50.0}, commit=OLD) if run.tags["method"] == "kd"
    ]
    changed = synthetic.tracked(plan, metrics={"final/last": 1.0}, commit=OLD)[0]
    changed.params["recipe.lr"] = "9.9"  # type: ignore[index]
    runs = [*synthetic.tracked(plan, commit=NEW), *old, changed]
    report = compared(OLD[:7], NEW[:7], "digits", lambda name: context_of(name, runs, tmp_path))
    rows = {row.fields["method"]: row for section in table_of(report).sections for row in section.rows}
    mean = sum(synthetic.accuracy("resnet8_half", "kd", seed) for seed in (1, 2, 3)) / 3
    assert rows["kd"].fields["difference"] == pytest.approx(mean - 50)
    assert (rows["kd"].fields["n_a"], rows["kd"].fields["n_b"]) == (3, 3)
    assert (rows["vanilla"].fields["n_a"], rows["vanilla"].fields["difference"]) == (0, None)  # other settings
    path = write(report, tmp_path)
    assert path.name == f"compare-{OLD[:12]}-{NEW[:12]}.pdf"
    text = pdf_text.text(path.read_bytes())
    assert "50.00 ± 0.00" in text
    assert f"commit {OLD[:12]}, 3 runs of digits" in text


def test_commits_that_begin_alike_are_not_pooled(tmp_path: Path) -> None:
    plan = plan_of("digits")
    runs = [*synthetic.tracked(plan, commit="abcd" + "1" * 36), *synthetic.tracked(plan, commit="abcd" + "2" * 36)]
    with pytest.raises(UserError, match="--compare abcd: 2 commits begin so: abcd11111111, abcd22222222"):
        compared("abcd", "abcd1", "digits", lambda name: context_of(name, runs, tmp_path))


def test_teachers_that_differ_are_told_and_never_pooled(tmp_path: Path) -> None:
    plan = plan_of("digits")
    kd = [run for run in synthetic.tracked(plan, commit=OLD) if run.tags["method"] == "kd"]
    anew = [replace(run, tags={**run.tags, "teacher_checksum": "d" * 64}) for run in kd[:2]]
    runs = [*synthetic.tracked(plan, commit=NEW), *anew, kd[2]]  # the third seed had another teacher
    report = compared(OLD[:7], NEW[:7], "digits", lambda name: context_of(name, runs, tmp_path))
    rows = {row.fields["method"]: row for section in table_of(report).sections for row in section.rows}
    assert rows["kd"].fields["n_a"] == 2
    (note,) = [note for note in table_of(report).notes if "different weights" in note]
    assert note.startswith("A and B were taught by different weights of resnet8x2")
    same = compared(NEW[:7], NEW[:7], "digits", lambda name: context_of(name, runs, tmp_path))
    assert not [note for note in table_of(same).notes if "different weights" in note]


def test_a_difference_links_to_the_runs_of_both_sides(tmp_path: Path) -> None:
    plan = plan_of("digits")
    runs = [*synthetic.tracked(plan, commit=NEW), *synthetic.tracked(plan, metrics={"final/last": 50.0}, commit=OLD)]
    runs = [replace(run, run_id=f"{run.run_id}{run.tags['git_commit'][0]}") for run in runs]
    report = compared(
        OLD[:7], NEW[:7], "digits", lambda name: replace(context_of(name, runs, tmp_path), server="http://here")
    )
    (row,) = [row for section in table_of(report).sections for row in section.rows if row.fields["method"] == "kd"]
    address = report.link(row.cells[-1].run_ids)
    assert address is not None
    assert sum(run_id in address for run_id in row.cells[-1].run_ids) == 6


def test_two_suites(tmp_path: Path) -> None:
    held = {name: synthetic.tracked(plan_of(name)) for name in ("digits", "cub")}
    report = compared("digits", "cub", "digits", lambda name: context_of(name, held[name], tmp_path))
    rows = [row for section in table_of(report).sections for row in section.rows]
    assert len(rows) == 2 + 5 + 3
    assert all(row.fields["difference"] is None for row in rows)
    assert "suite cub on cub200" in pdf_text.text(write(report, tmp_path).read_bytes())


def test_neither_suite_nor_commit(tmp_path: Path) -> None:
    runs = synthetic.tracked(plan_of("digits"), commit=NEW)
    with pytest.raises(UserError, match=r"--compare cubb: neither a suite nor a commit .*did you mean 'cub'"):
        compared("cubb", "digits", "digits", lambda name: context_of(name, runs, tmp_path))


def test_runs_of_studies_are_no_runs_of_their_suite(tmp_path: Path) -> None:
    runs = synthetic.tracked(plan_of("digits"), commit=NEW, tags={"study": "sdd_beta on digits"})
    with pytest.raises(UserError, match="neither a suite nor a commit"):
        compared(NEW[:7], NEW[:7], "digits", lambda name: context_of(name, runs, tmp_path))
