"""What the commands share: options made in one place, and engines chosen by name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmark import command_line, process, run, study, tracking
from benchmark.__main__ import parser as looking
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.engines.local import LocalEngine
from benchmark.execution.options import Options
from tests.conftest import SMALL_SUITE


def test_options_are_those_that_were_given(tmp_path: Path) -> None:
    words = ["digits", "--device", "cpu", "--workers", "3", "--threads", "2", "--engine", "inline", "--cache-gb", "1.5"]
    places = ["--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    made = command_line.options_of(run.parser().parse_args([*words, *places, "--retry-failed"]))
    places_of = {"runs": tmp_path / "runs", "data_root": tmp_path / "data"}
    assert made == Options(
        **places_of, engine="inline", device="cpu", workers=3, threads=2, retry_failed=True, cache_gb=1.5
    )


@pytest.mark.parametrize("words", ["status digits", "teachers", "prepare digits --threads 1"])
def test_options_that_a_command_does_not_have_keep_their_default(words: str, tmp_path: Path) -> None:
    given = looking().parse_args([*words.split(), "--device", "cpu", "--runs", str(tmp_path), "--data", str(tmp_path)])
    made = command_line.options_of(given)
    usual = Options(tmp_path, tmp_path)
    assert (made.runs, made.data_root, made.device, made.threads) == (tmp_path, tmp_path, "cpu", 1)
    assert (made.engine, made.retry_failed, made.cache_gb) == (usual.engine, usual.retry_failed, usual.cache_gb)


@pytest.mark.processes
def test_engines_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the local engine was made")

    monkeypatch.setattr(LocalEngine, "__init__", refused)
    suite = tmp_path / "small.yaml"
    tiny = {"data": {"name": "digits", "num_train": 64, "num_test": 32}, "recipe": {"epochs": 1, "batch_size": 32}}
    suite.write_text(yaml.safe_dump({**SMALL_SUITE, **tiny, "students": {}, "methods": {"vanilla": {}}, "seeds": 1}))
    words = [str(suite), "--pairs", "resnet8:resnet8_half", "--runs", str(tmp_path), "--engine", "inline"]
    assert run.main(words, Console(quiet=True)) == 0
    tracker = tracking.Tracker(tmp_path)
    assert [one.status for one in tracker.runs_in(list(tracker.experiments().values()))] == ["FINISHED"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("2h", 7200), ("1h30m", 5400), ("1m0s", 60)])
def test_deadlines_are_times_with_units(text: str, seconds: float) -> None:
    assert command_line.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [("9", "must be a time with its units, such as 90s, 9m or 1h30m, got '9'"), ("", "its units"), ("m9", "its units"),
     ("30m1h", "its units"), ("1.5h", "its units"), ("-9m", "its units"), ("9 m", "its units"), ("٣m", "its units"),
     ("9999999999s", "its units"), ("0s", "must be longer than nothing, got '0s'")],
)  # fmt: skip
def test_other_deadlines_are_refused(text: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.parser().parse_args(["digits", f"--deadline={text}"])
    assert ended.value.code == command_line.EXIT_USER_ERROR
    assert reason in capsys.readouterr().err


def test_a_deadline_is_counted_from_the_start_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = time.monotonic()
    before = process.age_s()
    assert 0 <= before <= started  # no process is older than its machine
    assert process.age_s() - before <= time.monotonic() - started + 0.02
    monkeypatch.setattr(process, "age_s", lambda: 100.0)
    given = run.parser().parse_args(["digits", "--deadline", "1h", "--runs", str(tmp_path), "--device", "cpu"])
    with command_line.ended_in_time(given):
        at = command_line.options_of(given).deadline
    assert at is not None
    assert at - time.monotonic() == pytest.approx(3500, abs=60)


@pytest.mark.processes
def test_a_deadline_that_ends_among_the_imports_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark.run", "digits", "--runs", str(tmp_path / "runs"), "--deadline", "1s"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (command_line.EXIT_DEADLINE, "")
    assert ended.stderr == "the deadline came before everything was written; the same command resumes\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("workers", "expected"), [(None, 2), (4, 4)])
def test_students_that_two_gpus_train_leave_room_for_half_as_many(
    workers: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    options = Options(Path(), Path(), device="cuda", workers=4)
    assert command_line.for_ranks(options, Namespace(workers=workers), 2).workers == expected
    assert command_line.for_ranks(options, Namespace(workers=workers), 1) is options


@pytest.mark.parametrize(("device", "workers"), [("cpu", None), ("cuda", 4), ("cuda:1", 1)])
def test_gpus_have_a_worker_each(device: str, workers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert command_line.default_workers(device, 1) == (workers or process.available_cores())


def test_torchrun_does_not_start_a_study_in_each_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"start it with python, .* --set ranks=N"):
        study.main(["sdd_beta"], Console())


def test_an_unknown_engine_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"local", "inline"} <= set(engines.names())
    with pytest.raises(SystemExit) as ended:
        run.parser().parse_args(["digits", "--engine", "inlin"])
    assert ended.value.code == command_line.EXIT_USER_ERROR
    assert "unknown word 'inlin'; did you mean 'inline'?" in capsys.readouterr().err


def test_sigterm_stops_a_command_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Sequence[str] | None, console: Console) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            command_line.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped\n"
