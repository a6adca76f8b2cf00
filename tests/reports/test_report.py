"""Reports of nothing, of one run, of bad runs: what the PDF says, and that it says it the same way twice."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from benchmark import run
from benchmark.analysis import published
from benchmark.analysis.numbers import spread
from benchmark.analysis.scores import scores
from benchmark.analysis.table import Cell, Column, Row, Section, Table
from benchmark.commands import train
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Tracked, Tracker
from reports import build, pdf, sections, style
from reports.__main__ import main
from reports.base import Block, Command, Context, Drawing, Listing, Text
from reports.document import Part, wrapped
from reports.gather import gather
from reports.sections.comparison import seeds_text
from reports.sections.coverage import TrackedState, states
from reports.sections.curves import fit_together
from reports.write import log, write
from tests.conftest import SMALL_SUITE
from tests.reports import pdf_text, synthetic

OWN = ["provenance", "comparison", "literature", "coverage"]
MARKUP = ' #panic("x") _a_ $x$ <y> *b* @c \\ "q" [z] `r` // ~ = - 100%'


def small(**choices: Any) -> Plan:
    return make_plan(suite.Suite(name="small", **SMALL_SUITE), **choices)


def gathered(plan: Plan, runs: Sequence[Tracked], folder: Path, **changes: Any) -> Context:
    store = cast(Tracker, synthetic.Store(runs, plan.slug))
    return gather([plan], store, **synthetic.nowhere(folder), arguments=[plan.suite.name], **changes)


def written(context: Context, folder: Path, names: Sequence[str] = OWN) -> tuple[build.Report, Path]:
    report = build.make(context, build.chosen_sections(names))
    assert not report.faults
    return report, write(report, folder / "out")


def of_blocks(context: Context, blocks: Sequence[Block], folder: Path) -> str:
    """Return the text of a report of these blocks."""
    from reports import base

    made = build.make(context, [base.ReportSection("one", "One", lambda _: blocks)])
    return pdf_text.text(write(made, folder / "out").read_bytes())


def run_command(*arguments: str) -> tuple[int, str]:
    console = Console(markup=False, highlight=False, width=140, record=True, quiet=False, file=None)
    with console.capture() as capture:
        code = main(arguments, console)
    return code, capture.get()


def test_of_no_database_says_what_is_published_and_what_is_missing(tmp_path: Path) -> None:
    code, output = run_command(
        "cub", "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data"), "--sections", ",".join(OWN)
    )
    assert code == 0
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    text = pdf_text.text((tmp_path / "runs" / "reports" / "cub.pdf").read_bytes())
    table = published.load("sdd/table5")
    for values in table.rows.values():
        assert all(f"{value:.2f}" in text for value in values if value is not None)
    assert "0 of 129 planned runs are finished" in text
    assert "Nothing is tracked under" in text
    assert "The images of cub200 are not here" in text
    assert "note: Nothing is tracked" in output
    assert "python -m benchmark.run cub" in text


def test_values_of_tables_are_those_of_the_runs(tmp_path: Path) -> None:
    plan = make_plan(suite.load("cub"))
    context = gathered(plan, synthetic.tracked(plan), tmp_path, server="http://tracking:5000/")
    report, path = written(context, tmp_path)
    text = pdf_text.text(path.read_bytes())
    for pair in plan.pairs:
        for method in plan.methods:
            values = scores(context.frame, pair, method, "last")
            assert values.mean == pytest.approx(
                math.fsum(synthetic.accuracy(pair.student, method, seed) for seed in (1, 2, 3)) / 3
            )
            assert spread(values.values) in text
            # beside the published table
            assert seeds_text(scores(context.frame, pair, method, "best_test"), 3) in text
    links = pdf_text.links(path.read_bytes())
    assert any(link.startswith("http://tracking:5000/#/compare-runs?runs=") for link in links)
    rows = list(csv.DictReader((path.with_suffix("") / "cells.csv").open()))
    assert {row["table"] for row in rows} >= {"comparison", "comparison-sdd-table5", "coverage"}
    known = set(context.frame["run_id"])
    assert all(set(row["run_ids"].split()) <= known for row in rows)
    assert {"comparison.md", "comparison.tex", "comparison.csv"} <= {
        file.name for file in (path.with_suffix("") / "tables").iterdir()
    }
    assert report.timestamp == max(run.start_time for run in context.tracked) // 1000


@pytest.mark.parametrize("num_runs", [0, 5])
def test_every_command_that_a_report_prints_is_taken(
    num_runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[list[str]] = []
    join = shlex.join

    def recorded(words: Sequence[str]) -> str:
        printed.append(list(words))
        return join(words)

    monkeypatch.setattr("reports.base.shlex.join", recorded)
    plan = make_plan(suite.load("cub"))
    context = gathered(plan, synthetic.tracked(plan, only=num_runs), tmp_path)
    build.make(context, build.chosen_sections([]))
    assert {" ".join(words[:3]) for words in printed} == {"python -m benchmark.run"}
    for words in printed:
        assert train.plan_of(run.parser().parse_args(words[3:]), "cpu").runs


def test_is_the_same_bytes_for_the_same_data(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan)
    paths = []
    for name in ("first", "second"):
        with style.style():
            figure = style.canvas(3, 2)
            figure.subplots().plot([1, 2], [3, 4], **style.look("sdd_kd").options())
        context = gathered(plan, runs, tmp_path)
        report = build.make(context, build.chosen_sections(OWN))
        drawn = Part("drawn", "Drawn", [Drawing("curve", figure, "A curve")])
        report = replace(report, parts=(*report.parts, drawn))
        paths.append(write(report, tmp_path / name))
    first, second = (
        {file.relative_to(path.parent): file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
        for path in paths
    )
    assert first == second
    assert Path("small/figures/curve.svg") in first
    assert Path("small/figures/curve.png") in first


def test_of_one_run_has_no_statistics(tmp_path: Path) -> None:
    context = gathered(small(), synthetic.tracked(small(), only=1), tmp_path)
    _, path = written(context, tmp_path)
    text = pdf_text.text(path.read_bytes())
    assert f"{synthetic.accuracy('resnet8_half', 'vanilla', 1):.2f} †" in text
    assert "1 of 10 planned runs are finished" in text


def test_numbers_that_are_none_are_dashes_and_problems(tmp_path: Path) -> None:
    plan = small(methods=["kd"], pairs=["resnet8:resnet8_half"], seeds=3)
    broken = synthetic.tracked(plan, metrics={"final/last": math.nan})
    broken[1].metrics.pop("final/best_selected_on_test")  # type: ignore[attr-defined]
    broken[2] = synthetic.tracked(plan, metrics={"final/best_selected_on_test": math.inf})[2]
    context = gathered(plan, broken, tmp_path)
    text = pdf_text.text(written(context, tmp_path)[1].read_bytes())
    assert len(context.problems) == 3
    assert "has no number for last and best_test" in text
    assert "nan" not in text.lower().split()
    assert "inf" not in text.lower().split()


def test_runs_of_another_origin_are_left_out(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan)
    runs[0].tags.pop("method")  # type: ignore[attr-defined]
    runs[1].tags["seed"] = "two"  # type: ignore[index]
    context = gathered(plan, runs, tmp_path)
    assert len(context.frame) == len(plan.runs) - 2
    assert any("has no tag method" in problem for problem in context.problems)


def test_markup_is_text(tmp_path: Path) -> None:
    context = gathered(small(), synthetic.tracked(small(), tags={"device": MARKUP, "dataset": MARKUP}), tmp_path)
    row = Row((Cell(MARKUP, bold=True), Cell("1")), {"a": MARKUP})
    table = Table(MARKUP, MARKUP, (Column(MARKUP, "left"), Column("#b")), (Section(MARKUP, "", (row,)),), (MARKUP,))
    figure = style.canvas(2, 1)
    blocks = [
        Text(MARKUP),
        Command(MARKUP, "a --b '<c>' #d"),
        Listing("../a b#", table),
        Drawing("x/y", figure, MARKUP),
    ]
    text = of_blocks(context, blocks, tmp_path)
    assert text.count(" ".join(MARKUP.split())) >= 8
    names = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {"a-b.md", "x-y.svg", "small.pdf", "small.html"} <= names
    page = (tmp_path / "out" / "small.html").read_text()
    assert "<y>" not in page
    assert "a --b &#39;&lt;c&gt;&#39; #d" in page
    assert {file.name for file in tmp_path.iterdir()} == {"out"}
    written(context, tmp_path)


def test_wide_and_long_tables_stay_on_the_page(tmp_path: Path) -> None:
    columns = tuple(Column(f"column {number}") for number in range(16))
    row = Row(tuple(Cell(f"{number}.123 ± 0.12") for number in range(16)), {})
    table = Table("Wide.", "", columns, (Section("part", "", (row,) * 120),))
    path = tmp_path / "out"
    text = of_blocks(gathered(small(), [], tmp_path), [Listing("wide", table)], tmp_path)
    made = next(path.glob("*.pdf")).read_bytes()
    assert b"/MediaBox[0 0 841" in made.replace(b" [", b"[")  # turned
    assert text.count("column 15") >= 3  # the header is on every page
    assert text.count("15.123 ± 0.12") == 120


def test_failures_and_gaps_come_with_their_commands(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan, only=8)
    runs[0] = synthetic.tracked(plan, status="FAILED", tags={"failure_reason": "loss was nan"})[0]
    context = gathered(plan, runs, tmp_path)
    count = {state: sum(one.state is state for one in states(context)) for state in TrackedState}
    assert count == {TrackedState.DONE: 7, TrackedState.FAILED: 1, TrackedState.RUNNING: 0, TrackedState.MISSING: 2}
    text = pdf_text.text(written(context, tmp_path, ["coverage"])[1].read_bytes())
    assert "loss was nan" in text
    assert "--methods vanilla --retry-failed" in text
    assert "--pairs resnet20:resnet8_half" in text
    assert "--methods sdd_kd" in text


def test_a_section_that_fails_does_not_take_the_others(tmp_path: Path) -> None:
    from reports import base

    def broken(context: Context) -> Sequence[Block]:
        raise ZeroDivisionError("no #seeds")

    chosen = [base.ReportSection("bad", "Bad", broken), *build.chosen_sections(["coverage"])]
    report = build.make(gathered(small(), [], tmp_path), chosen)
    assert report.faults == ("bad: ZeroDivisionError: no #seeds",)
    text = pdf_text.text(write(report, tmp_path).read_bytes())
    assert "no #seeds" in text
    assert "Planned and done" in text


def test_what_an_earlier_report_wrote_is_removed_and_nothing_else(tmp_path: Path) -> None:
    context = gathered(small(), [], tmp_path)
    _, path = written(context, tmp_path)
    folder = path.with_suffix("")
    (folder / "tables" / "mine.md").write_text("kept")
    written(context, tmp_path, ["literature"])
    assert not (folder / "tables" / "coverage.md").exists()
    assert (folder / "tables" / "mine.md").exists()
    (folder / pdf.DATA).write_text(json.dumps({"files": ["tables/../../../x", 1]}))
    written(context, tmp_path, ["literature"])


def test_is_an_artifact_of_the_suite_logged_once(tmp_path: Path, runs_folder: Path) -> None:
    plan = small()
    tracker = Tracker(runs_folder)
    context = replace(gathered(plan, [], tmp_path), tracker=tracker)
    path = written(context, tmp_path)[1]
    assert log(context, path) is None
    assert not tracker.experiments()  # to look at nothing makes no experiment
    experiment = tracker.experiment(plan.slug, {"suite": "small"})
    for _ in range(2):
        assert log(context, path) is None
    (run,) = tracker.client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("report", "FINISHED")
    assert {file.path for file in tracker.client.list_artifacts(run.info.run_id)} == {
        *("small.pdf", "small.html", "small-cells.csv")
    }
    assert tracker.runs_in([experiment]) == []


def test_database_of_another_schema_is_a_users_error(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table alembic_version (version_num varchar)")
        database.execute("insert into alembic_version values ('deadbeef')")
        database.commit()
    with pytest.raises(UserError, match="cannot open the tracking store"):
        run_command("digits", "--runs", str(tmp_path))


def test_list_and_unknown_section(tmp_path: Path) -> None:
    code, output = run_command("--list")
    assert code == 0
    assert all(name in output for name in OWN)
    with pytest.raises(UserError, match=r"unknown section 'coverige'; did you mean 'coverage'\?"):
        run_command("cub", "--runs", str(tmp_path), "--sections", "coverige")
    assert not list(tmp_path.iterdir())


def test_sections_have_an_order_and_a_new_one_stands_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from reports import base

    listed = {name: base.registry.get(name) for name in sections.ORDER}
    monkeypatch.setattr(base.registry, "_entries", listed)
    assert [one.name for one in sections.in_order()] == list(sections.ORDER)

    @base.section("Agreement")
    def agreement(context: Context) -> Sequence[Block]:
        return []

    assert [one.name for one in sections.in_order()] == [*sections.ORDER, "agreement"]


def test_a_section_sees_every_metric_in_the_frame(tmp_path: Path) -> None:
    from reports import base

    plan = small()
    runs = synthetic.tracked(plan, metrics={"test/agreement": 80.0}, only=8)
    runs[0] = synthetic.tracked(plan, metrics={"test/agreement": 80.0}, status="FAILED")[0]
    seen = []

    def agreement(context: Context) -> Sequence[Block]:
        seen.append(scores(context.frame, plan.pairs[0], "kd", "test/agreement").values)
        return [Text(f"{context.frame['test/agreement'].count()} runs")]

    report = build.make(gathered(plan, runs, tmp_path), [base.ReportSection("one", "One", agreement)])
    assert not report.faults
    assert report.parts[0].blocks == [Text("7 runs")]
    assert seen == [[80.0, 80.0]]


def test_plan_that_runs_answer_to_is_the_one_reported(tmp_path: Path) -> None:
    chosen = suite.load("cub")
    plans = [
        make_plan(chosen.model_copy(update={"teacher_precision": precision}), methods=["kd"])
        for precision in ("fp32", "bf16")
    ]
    runs = synthetic.tracked(plans[1])
    context = gather(plans, cast(Tracker, synthetic.Store(runs, "cub")), **synthetic.nowhere(tmp_path))
    assert context.plan is plans[1]
    assert len(context.frame) == len(runs)


def test_a_command_is_pasted_as_it_is(tmp_path: Path) -> None:
    """Broken before its options only, with a backslash."""
    words = [
        "python",
        "-m",
        "benchmark.run",
        "cub",
        "--pairs",
        "a:b",
        "--set",
        "data.path=my birds",
        "--runs",
        "/x" * 40,
    ]
    made = wrapped(shlex.join(words))
    assert made.count("\n") == 1
    assert shlex.split(made.replace("\\\n", "")) == words
    assert shlex.split(wrapped(shlex.join(words[:6]))) == words[:6]


def test_sections_with_nothing_to_show_are_named_and_take_no_page(tmp_path: Path) -> None:
    report, path = written(gathered(small(), [], tmp_path), tmp_path, ["comparison", "curves", "coverage"])
    assert [part.name for part in report.parts] == ["coverage"]
    assert report.empty == ("Comparison", "Training curves")
    assert "Without results yet: Comparison, Training curves." in pdf_text.text(path.read_bytes())
    assert "Without results yet: Comparison, Training curves." in path.with_suffix(".html").read_text()


def test_a_report_of_nothing_is_short(tmp_path: Path) -> None:
    plan = make_plan(suite.load("cifar100"))
    report = build.make(gathered(plan, [], tmp_path), build.chosen_sections([]))
    assert not report.faults
    made = write(report, tmp_path / "out").read_bytes()
    assert len(pdf_text.pages(made)) <= 8
    first = pdf_text.text(made)[:3000]
    assert "there is no result yet" in first
    assert "python -m benchmark.run cifar100" in first


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """One file, which asks nobody for anything."""
    context = gathered(small(), synthetic.tracked(small()), tmp_path, server="http://tracking:5000")
    report = build.make(context, build.chosen_sections(["result", "comparison"]))
    page = write(report, tmp_path / "out").with_suffix(".html").read_text()
    assert not re.findall(r"""(?:src|srcset|action|data)=["'](?!data:)|@import|url\(|fetch\(|XMLHttp""", page)
    links = re.findall(r'<(?:link|a)[^>]* href="([^"]*)', page)
    assert any(link.startswith("http://tracking:5000/#/") for link in links)
    assert all(link.startswith(("http://tracking:5000/#/", "data:", "#")) for link in links)
    assert "default-src 'none'" in page
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') >= 1


def test_runs_under_another_teacher_are_counted_where_they_are_left_out(tmp_path: Path) -> None:
    """After `merge`, or with a server that several folders share."""
    plan = small()
    runs = synthetic.tracked(plan)
    (other,) = [run for run in runs if (run.tags["method"], run.tags["seed"]) == ("kd", "1")][:1]
    planned = next(one for one in plan.runs if one.config.signature(synthetic.DIGEST, other.tags["teacher_checksum"])
                   == other.signature)  # fmt: skip
    anew = replace(other, run_id="anew", signature=planned.config.signature(synthetic.DIGEST, "e" * 64),
                   tags={**other.tags, "teacher_checksum": "e" * 64})  # fmt: skip
    said = [one for one in gathered(plan, [*runs, anew], tmp_path).problems if "other weights" in one]
    assert len(said) == 1
    assert said[0].startswith(f"1 finished run of this plan had other weights of the teacher {other.tags['teacher']}")
    assert not [one for one in gathered(plan, runs, tmp_path).problems if "other weights" in one]


def test_styles_tell_methods_apart() -> None:
    looks = {method: style.look(method) for method in ("vanilla", "kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "mlkd")}
    assert len({(look.marker, look.line, look.filled) for look in looks.values()}) == len(looks)
    assert looks["kd"].colour == looks["sdd_kd"].colour
    assert style.look("of-nobody") == style.look("of-nobody")
    assert fit_together(list(looks))
    # two forms of one method, and methods of families that share what is left of the colours
    assert not fit_together(["vanilla", "kd", "sdd_kd", "ls_kd"])
    assert not fit_together(["at", "rkd", "rld", "cc"])
