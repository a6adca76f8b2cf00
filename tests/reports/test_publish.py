"""Publishing measured results: what is written, merged, refused and said, and what reports make of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.analysis import measured
from benchmark.analysis.measured import MeasuredRun
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Tracked, Tracker
from reports import build, command
from reports.__main__ import main
from reports.base import Context
from reports.publish import Published, publish
from reports.sections import literature
from tests.reports import frames, pdf_text, synthetic
from tests.reports.test_report import gathered, small, written

CPU, GPU = "AVX2, oneDNN avx2, 1 thread", "NVIDIA H200, compute capability 9.0"


def made_of(runs: list[Tracked], folder: Path, plan: Plan | None = None) -> Published:
    return publish([gathered(plan or small(), runs, folder / "store")], folder)


def rows(folder: Path) -> list[MeasuredRun]:
    return measured.load(measured.path_of("small", folder))


def text(folder: Path) -> str:
    return measured.path_of("small", folder).read_text()


def test_a_row_says_what_a_reader_needs_to_judge_it(tmp_path: Path) -> None:
    plan = small()
    done = made_of(synthetic.tracked(plan, tags={"machine": CPU}), tmp_path)
    assert (len(done.added), done.replaced, done.num_known, done.warnings) == (len(plan.runs), [], 0, [])
    by_key = {(run.teacher, run.method, run.seed): run for run in rows(tmp_path)}
    for planned in plan.runs:
        config = planned.config
        run = by_key[config.teacher, config.method, config.repetition]
        checksum = synthetic.checksum(config.teacher) if config.teacher else None
        last = synthetic.accuracy(config.student, config.method, config.repetition)
        assert run == MeasuredRun(
            signature=config.signature(synthetic.DIGEST, checksum), configuration=config.settings_hash,
            dataset="digits", data_digest=synthetic.DIGEST, teacher=config.teacher, student=config.student,
            method=config.method, seed=config.repetition, status="finished", last=last, best_test=last + 0.5,
            epochs=10, teacher_checksum=checksum, teacher_top1=None,
            teacher_precision="fp32" if config.teacher else None, teacher_cache="none" if config.teacher else None,
            device="a CPU", machine=CPU, commit=synthetic.COMMIT, dirty=False, date="2023-11-14T22:13:20Z",
            train_seconds=60.0, versions="torch 2.15.0", failure=None,
        )  # fmt: skip


def test_publishing_twice_changes_no_byte(tmp_path: Path) -> None:
    runs = synthetic.tracked(small())
    made_of(runs, tmp_path)
    before = text(tmp_path)
    done = made_of(runs[::-1], tmp_path)
    assert (done.added, done.replaced, done.num_known, done.warnings) == ([], [], len(runs), [])
    assert text(tmp_path) == before
    assert {one.name for one in tmp_path.iterdir()} == {"small.csv", "small.csv.lock"}


def test_no_row_is_lost_and_a_finished_run_replaces_a_failed_one_only(tmp_path: Path) -> None:
    runs = synthetic.tracked(small())
    failed = synthetic.tracked(small(), status="FAILED", tags={"failure_reason": "the loss\nwas not finite"})
    made_of([*failed[:2], *runs[2:5]], tmp_path)
    assert [(one.failure, one.last) for one in rows(tmp_path) if not one.is_finished] == 2 * [
        ("the loss\\nwas not finite", None)
    ]
    done = made_of([runs[0], failed[1], *failed[2:4], *runs[6:]], tmp_path)  # of another machine's store
    assert (len(done.added), len(done.replaced), done.num_known) == (len(runs) - 6, 1, 3)
    now = {run.signature: run.status for run in rows(tmp_path)}
    expected = {run.signature: "finished" for run in runs} | {failed[1].signature: "failed"}
    assert now == {signature: status for signature, status in expected.items() if signature != runs[5].signature}


def test_other_figures_of_a_run_that_is_there_are_said_and_change_nothing(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan, tags={"machine": CPU})
    made_of(runs, tmp_path)
    before = text(tmp_path)
    last = math.nextafter(runs[0].metrics["final/last"], 100)
    other = replace(runs[0], metrics={**runs[0].metrics, "final/last": last})
    (said,) = made_of([other], tmp_path).warnings
    assert "on the same kind of machine: last" in said and repr(last) in said and "stays as it is" in said
    (said,) = made_of([replace(other, tags={**other.tags, "machine": GPU})], tmp_path).warnings
    assert f"on another machine, {CPU}" in said
    assert text(tmp_path) == before


def test_changed_checkouts_are_recorded_and_said(tmp_path: Path) -> None:
    done = made_of(synthetic.tracked(small(), tags={"git_dirty": "true"}, only=3), tmp_path)
    assert [run.dirty for run in rows(tmp_path)] == [True] * 3
    assert done.warnings[0].startswith("3 of these runs are from a changed checkout")


def test_runs_that_are_not_over_trials_and_runs_without_a_number_are_not_published(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan, only=4)
    runs[0] = replace(runs[0], status="RUNNING")
    runs[1] = replace(runs[1], status="KILLED")
    runs[2] = replace(runs[2], metrics={**runs[2].metrics, "final/last": math.nan})
    tuning = plan.runs[4].config.model_copy(update={"tuning": True})
    trial = replace(synthetic.tracked(plan)[4], signature=tuning.signature(synthetic.DIGEST, "0" * 64), run_id="t" * 32)
    done = made_of([*runs, trial], tmp_path)
    assert [run.signature for run in rows(tmp_path)] == [runs[3].signature]
    (said,) = done.warnings
    assert plan.runs[2].label in said and "last: input should be a finite number" in said


def test_nothing_to_publish_and_a_damaged_file_are_users_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run of small .* has ended .*; this trains them: python -m benchmark.run"):
        made_of([], tmp_path)
    assert not measured.path_of("small", tmp_path).exists()
    made_of(synthetic.tracked(small(), only=2), tmp_path)
    path = measured.path_of("small", tmp_path)
    path.write_text(text(tmp_path).replace("finished", "done", 1))
    before = path.read_bytes()
    with pytest.raises(UserError, match="line 2: column status"):
        made_of(synthetic.tracked(small()), tmp_path)
    assert path.read_bytes() == before


def test_either_rounding_of_a_teacher_is_published(tmp_path: Path) -> None:
    """Which one a run has depends on the device that trained it, and a student alone has none."""
    plans = [
        small(assignments=[f"teacher_precision={precision}"], methods=["vanilla", "kd"])
        for precision in ("fp32", "bf16")
    ]
    done = publish([gathered(one, synthetic.tracked(one), tmp_path / "store") for one in plans], tmp_path)
    assert len(done.added) == len({run.signature for run in done.added}) == 2 + 2 * 4
    assert {run.teacher_precision for run in rows(tmp_path)} == {"fp32", "bf16", None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--profile", "smoke"], "the smoke profile is a small slice, not a result"),
        (["digits", "--sections", "cost"], "leave out --sections"),
        (["--compare", "digits", "cub"], "leave out --compare"),
        (["cub", "--row", "kd"], "leave out --row"),
    ],
)
def test_what_is_never_published_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--publish.*{message}"):
        main([*arguments, "--publish", "--runs", str(tmp_path / "runs")], Console())
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_added_and_what_to_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    runs = synthetic.tracked(small(), only=3)
    runs[1] = synthetic.tracked(small(), status="FAILED", tags={"failure_reason": "loss"})[1]
    console = Console(width=200)
    assert command.published([gathered(small(), runs, tmp_path)], console) == 0
    said = capsys.readouterr().out
    assert f"added: {small().runs[0].label}: last {runs[0].metrics['final/last']!r}" in said
    assert f"added: {small().runs[1].label}: failed: loss" in said
    assert "3 runs added, 0 in place of failed ones, 0 were there." in said
    assert f"To commit: {tmp_path / 'measured' / 'small.csv'}" in said


def reported(folder: Path, runs: list[Tracked], **changes: object) -> Context:
    context = gathered(small(), runs, folder, of_project=folder)
    return replace(context, **changes)  # type: ignore[arg-type]


def test_a_report_shows_what_is_measured_with_and_without_runs_of_ones_own(tmp_path: Path) -> None:
    plan = small()
    runs = synthetic.tracked(plan, tags={"machine": CPU})
    made_of([replace(run, metrics={**run.metrics, "final/last": 12.25}) for run in runs], tmp_path)
    measured_table = {}
    for own in ([], runs):
        context = reported(tmp_path, own)
        _, path = written(context, tmp_path)
        found = pdf_text.text(path.read_bytes())
        assert "12.25 ± 0.00 n=2" in found
        assert "Measured by the project" in found and "10 runs on a CPU" in found
        assert ("Not reproduced: 10 of 10 runs differ" in " ".join(found.split())) == bool(own)
        measured_table[bool(own)] = frames.shown(literature.measured(context))
    assert measured_table[True] == measured_table[False]
    assert measured_table[True]["KD (last epoch)"]["resnet20:resnet8_half"] == "12.25 ± 0.00 n=2"


def test_where_nothing_is_measured_one_line_says_so(tmp_path: Path) -> None:
    report, path = written(reported(tmp_path, synthetic.tracked(small())), tmp_path)
    found = " ".join(pdf_text.text(path.read_bytes()).split())
    assert found.count("Measured by the project nothing under these settings yet") == 1
    assert found.count("easured") == 2, "and in the title of a section without results"
    assert "Published and measured numbers" in report.empty


def test_a_damaged_file_is_a_problem_of_the_report_and_not_its_end(tmp_path: Path) -> None:
    measured.path_of("small", tmp_path).write_text("a,b\n")
    context = reported(tmp_path, synthetic.tracked(small()))
    assert not context.measured
    assert any("line 1: column 'a' is unknown" in problem for problem in context.problems)
    assert not build.make(context, build.chosen_sections([])).faults


def test_a_store_of_digits_is_published_and_read_back(
    tmp_path: Path, runs_folder: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through MLflow: what a run records is all that a row takes, and its numbers are those of the store."""
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    chosen = ["digits", "--methods", "vanilla,kd", "--seeds", "2"]
    plan = make_plan(suite.load("digits"), methods=["vanilla", "kd"], seeds=2)
    tracker = Tracker(runs_folder)
    experiment = tracker.experiment("digits", {"suite": "digits"})
    expected = {}
    for number, planned in enumerate(plan.runs):
        config, last = planned.config, 70 + number / 3
        checksum = "e" * 64 if config.teacher else None
        tags = {"teacher": "resnet8x2", "teacher_checksum": "e" * 64} if config.teacher else {}
        signature = config.signature(digits.digest, checksum)
        run_id = tracker.start(
            experiment, config, signature, digits, role="student", name=f"run {number}", parent=None,
            tags={"suite": "digits", "device": "a CPU", "machine": CPU, **tags},
        )  # fmt: skip
        if number == 0:
            tracker.end(run_id, "FAILED", failure="final", failure_reason="the loss was not finite")
            expected[signature] = None, None
            continue
        figures = {"final/last": last, "final/best_selected_on_test": last + 1 / 7, "final/train_seconds": 1.5}
        tracker.summarise(run_id, figures)
        tracker.end(run_id, "FINISHED")
        expected[signature] = last, last + 1 / 7
    places = ["--runs", str(runs_folder), "--data", str(tmp_path / "data")]
    path = measured.path_of("digits")
    bytes_of = []
    for _ in range(2):
        assert main([*chosen, "--publish", *places], Console(quiet=True)) == 0
        bytes_of.append(path.read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert {run.signature: (run.last, run.best_test) for run in measured.load(path)} == expected
    assert {run.dataset for run in measured.load(path)} == {"digits"}
    sections = ["--sections", "comparison,provenance"]
    assert main([*chosen, *sections, *places], Console(quiet=True)) == 0
    found = pdf_text.text(next((runs_folder / "reports").glob("digits*.pdf")).read_bytes())
    assert "measured last" in found and "70.33 n=1" in found, "of the second run, since the first failed"
    assert "4 runs, 1 failed, on a CPU" in " ".join(found.split())
