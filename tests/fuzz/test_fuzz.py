"""A short seeded fuzzing of every kind of input, and the fuzzer itself: what it must see, it sees."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from benchmark.errors import UserError
from tests.fuzz import base
from tests.fuzz.base import Guard, Kind, kinds, run

#: inputs of a kind with a share of 1; `make fuzz N=100000` runs more
INPUTS = 40
GUARD = Guard()


@pytest.mark.parametrize("name", sorted(kinds()))
def test_no_input_ends_in_a_fault(name: str, tmp_path: Path) -> None:
    kind = kinds()[name]
    warnings.simplefilter("ignore")
    for number in range(round(INPUTS * kind.share)):
        failure = run(GUARD, kind, 20240613, number, tmp_path / "place")
        assert failure is None, str(failure)


@pytest.mark.parametrize("name", sorted(kinds()))
def test_inputs_follow_from_seed_and_number(name: str) -> None:
    kind = kinds()[name]
    assert [kind.case(1, n) for n in range(5)] == [kind.case(1, n) for n in range(5)]
    assert [kind.case(1, n) for n in range(20)] != [kind.case(2, n) for n in range(20)]


def faults(text: str, folder: Path) -> None:
    """Do the wrong things that a text names."""
    outside = folder.parent / "outside"
    if "raise" in text:
        raise KeyError("wrong")
    if "refuse" in text:
        raise UserError("refused: as it should be")
    if "exit" in text:
        sys.exit(3)
    if "write" in text:
        outside.write_text("x")
    if "rename" in text:
        (folder / "a").touch()
        (folder / "a").rename(outside)
    if "mkdir" in text:
        os.mkdir(outside)  # noqa: PTH102
    if "connect" in text:
        socket.socket().connect_ex(("127.0.0.1", 9))
    if "process" in text:
        subprocess.run(["true"], check=False)
    if "print" in text:
        print("Traceback (most recent call last):")
    if "slow" in text:
        time.sleep(30)
    (folder / "inside").write_text("this is fine")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("fine", None),
        ("refuse", None),
        ("raise", "KeyError in test_fuzz.py, faults"),
        ("exit", "exit code 3"),
        ("write", "outside its folder: open"),
        ("rename", "outside its folder: os.rename"),
        ("mkdir", "outside its folder: os.mkdir"),
        ("connect", "socket.connect"),
        ("process", "subprocess.Popen"),
        ("print", "a traceback was printed"),
        ("slow", "more than 1 seconds"),
    ],
)
def test_the_guard_sees(text: str, fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LIMIT_S", 1 if text == "slow" else 60)
    monkeypatch.setattr(base, "SHRINKS", 0)
    found = run(GUARD, Kind("example", lambda _: text, faults, 1.0), 0, 0, tmp_path / "place")
    assert (found is None) if fault is None else (found is not None and found.fault.startswith(fault))
    assert not list((tmp_path / "place").iterdir())


def test_a_failing_input_is_made_smaller_and_can_be_run_alone(tmp_path: Path) -> None:
    def generate(rng: random.Random) -> dict[str, object]:
        return {"texts": ["a" * 50 + "raise" + "b" * 50, "c"], "more": rng.random()}

    def check(case: dict[str, list[str]], folder: Path) -> None:
        for text in case.get("texts", []):
            faults(text, folder)

    accepted = GUARD.accepted
    found = run(GUARD, Kind("example", generate, check, 1.0), 5, 7, tmp_path / "place")
    assert found is not None
    assert found.case == {"texts": ["raise"]}
    assert GUARD.accepted == accepted, "its smaller forms are no inputs"
    assert "python -m tests.fuzz --kind example --seed 5 --number 7" in str(found)
