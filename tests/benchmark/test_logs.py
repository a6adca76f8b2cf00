"""A command's log holds what it said, its warnings and its errors in full."""

from __future__ import annotations

import io
import logging
import os
import warnings
from pathlib import Path

import pytest

from benchmark import files, logs
from benchmark.errors import UserError
from tests.processes import exit_code, start


def a_console() -> logs.LoggedConsole:
    return logs.LoggedConsole(file=io.StringIO(), width=140, markup=False, highlight=False)


def command_that_fails(runs: Path, console: logs.LoggedConsole) -> None:
    with logs.kept(runs, "run", console):
        console.print("Plan: digits", style="bold")
        files.say("rendering digits")
        warnings.warn("a slow disk", stacklevel=1)
        raise UserError("nothing to train")


def test_what_is_said_and_how_it_ends(tmp_path: Path) -> None:
    console = a_console()
    with pytest.warns(UserWarning, match="a slow disk"), pytest.raises(UserError):
        command_that_fails(tmp_path, console)
    (path,) = tmp_path.glob("logs/*")
    text = path.read_text()
    assert path.name.endswith(f"-run-{os.getpid()}.log")
    for words in (
        "starts: ",
        "torch",
        "Plan: digits",
        "rendering digits",
        "UserWarning: a slow disk",
        "UserError: nothing",
    ):
        assert words in text
    assert text.index("Plan") < text.index("Traceback (most recent call last)")
    assert console.file.getvalue().splitlines()[-1] == f"Log: {path}"  # type: ignore[attr-defined]
    console.print("afterwards")
    assert path.read_text() == text
    assert logs._VARIABLE not in os.environ


def fail_in_a_process() -> None:
    logs.join()
    try:
        raise ZeroDivisionError("in a worker")
    except ZeroDivisionError:
        logging.getLogger("benchmark.train.loop").exception("cohort crashed")


@pytest.mark.processes
def test_processes_that_a_command_starts_log_to_its_file(tmp_path: Path) -> None:
    with logs.kept(tmp_path, "run", a_console()) as path:
        assert exit_code(start(fail_in_a_process)) == 0
    text = path.read_text()
    assert "cohort crashed" in text
    assert "ZeroDivisionError: in a worker" in text


def test_the_oldest_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "NUM_KEPT", 2)
    (tmp_path / "logs").mkdir()
    for number in range(3):
        old = tmp_path / "logs" / f"{number}.log"
        old.touch()
        os.utime(old, (number, number))
    (tmp_path / "logs" / "notes.txt").touch()
    with logs.kept(tmp_path, "run", a_console()) as path:
        pass
    assert {one.name for one in path.parent.iterdir()} == {"2.log", path.name, "notes.txt"}


def test_paths_and_addresses_are_never_broken(tmp_path: Path) -> None:
    """Seen at 80 columns: an address in two lines, of which a terminal opens the first."""
    address = "http://127.0.0.1:5000/#/experiments/1/runs?" + "&".join(f"column={number}" for number in range(20))
    console = logs.LoggedConsole(file=io.StringIO(), width=80, markup=False, highlight=False)
    console.print(f"Every run: `make ui`, then {address}")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert address in said and said.startswith("Every run: `make ui`, then")
