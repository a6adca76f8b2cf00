"""A runs folder that can only be read is listed and reported on; what must write says so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import benchmark.__main__
import benchmark.run
import reports.__main__
from benchmark import files, tracking
from benchmark import study as study_command
from benchmark.errors import UserError
from tests.benchmark.test_tracking import start
from tests.processes import exit_code, heard, pipe
from tests.processes import start as start_process


@pytest.fixture
def read_only(runs_folder: Path, digits: object, unprivileged: None) -> Iterator[Path]:
    """A runs folder with one finished run, in which nothing can be written."""
    tracker = tracking.Tracker(runs_folder)
    tracker.end(start(tracker, digits, "s1"), "FINISHED")  # type: ignore[arg-type]
    (runs_folder / "locks").mkdir()
    (runs_folder / "locks" / "s1.lock").touch()
    places = [runs_folder, *runs_folder.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    with pytest.raises(PermissionError):
        (runs_folder / "new").touch()
    yield runs_folder
    for place in places:
        place.chmod(0o755 if place.is_dir() else 0o644)


def said(main: object, *arguments: str) -> str:
    text = io.StringIO()
    main(arguments, Console(file=text, width=140, markup=False, highlight=False))  # type: ignore[operator]
    return text.getvalue()


def test_it_is_listed_reported_on_and_copied(read_only: Path, tmp_path: Path) -> None:
    places = ("--runs", str(read_only))
    assert [run.status for run in tracking.Tracker(read_only).runs_with(["s1"])] == ["FINISHED"]
    assert "27 to train" in said(benchmark.__main__.main, "status", "digits", *places)
    assert "no teachers" in said(benchmark.__main__.main, "teachers", *places)
    assert "1 runs" in said(benchmark.__main__.main, "export", str(tmp_path / "export"), *places)
    text = said(reports.__main__.main, "digits", "--sections", "coverage", "--out", str(tmp_path / "out"), *places)
    assert "can only be read" in text
    assert (tmp_path / "out" / "digits.pdf").exists()


def test_a_command_that_must_write_says_where_and_the_way_out(read_only: Path) -> None:
    places = ("--runs", str(read_only))
    for main, arguments in [
        (benchmark.run.main, ["digits"]),
        (study_command.main, ["sdd_beta"]),
        (reports.__main__.main, ["digits"]),
        (benchmark.__main__.main, ["teachers", "import", str(read_only)]),
    ]:
        with pytest.raises(UserError, match=rf"cannot write to {read_only}.*: Permission denied; .* with --(runs|out)"):
            said(main, *arguments, *places)


def hold(lock_file: Path, said: object) -> None:
    """Hold a lock until told to end."""
    with files.locked(lock_file.with_suffix("")):
        said.send("held")  # type: ignore[attr-defined]
        said.recv()  # type: ignore[attr-defined]


@pytest.mark.processes
def test_a_lock_in_it_is_seen(read_only: Path) -> None:
    lock = read_only / "locks" / "s1.lock"
    assert files.is_free(lock)
    lock.chmod(0o644)
    ours, theirs = pipe()
    holder = start_process(hold, lock, theirs)
    assert heard(ours) == "held"
    lock.chmod(0o444)
    assert not files.is_free(lock)
    ours.send("end")
    assert exit_code(holder) == 0
    assert files.is_free(lock)
