"""What the commands share: options made in one place, and engines chosen by name."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmark import command_line, run, tracking
from benchmark.__main__ import parser as looking
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
