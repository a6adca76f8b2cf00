"""The scripts of the docs: their shell is sound, and a sitting does what its head says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "docs" / "scripts"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.sh"))

#: stands for the interpreter: notes how it was called, and ends a training with the code that it is told
STAND_IN = """#!/usr/bin/env bash
echo "$BENCH_RUNS $BENCH_DATA $BENCH_OFFLINE: $*" >> "$CALLS"
[ "$2" = benchmark.run ] && exit "$CODE"
exit 0
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_shell_is_sound(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; bash parses the script")
    checked = subprocess.run(["shellcheck", str(SCRIPTS / name)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def sitting(folder: Path, code: int, *arguments: str) -> tuple[int, list[str]]:
    """Run a sitting with a stand-in for the interpreter; return its exit code and the calls."""
    stand_in, calls = folder / "python", folder / "calls"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    calls.unlink(missing_ok=True)
    variables = {"PYTHON": str(stand_in), "CALLS": str(calls), "CODE": str(code), "DEADLINE": "60s", "RUNS": "r"}
    variables |= {"IN": "in", "OUT": "out", "DATA": "data"}
    ran = subprocess.run(
        [str(SCRIPTS / "sitting.sh"), *arguments], cwd=folder, env={**os.environ, **variables}, capture_output=True
    )
    return ran.returncode, calls.read_text().splitlines()


def test_a_sitting_merges_trains_and_packs(tmp_path: Path) -> None:
    plan = ("digits", "--pairs", "resnet8x2:resnet8_half")
    trained = f"r data 1: -m benchmark.run {' '.join(plan)} --deadline 60s"
    packed = "r data 1: -m benchmark pack out/sitting"
    assert sitting(tmp_path, 75, *plan) == (75, [trained, packed])
    for name in ("sitting.001", "sitting.002", "notes.txt"):
        (tmp_path / "in" / name).write_text("")
    merged = "r data 1: -m benchmark merge in/sitting.001 in/sitting.002"
    assert sitting(tmp_path, 0, *plan) == (0, [merged, trained, packed])
    assert sitting(tmp_path, 1, *plan) == (1, [merged, trained, packed])


def test_a_mistake_packs_nothing(tmp_path: Path) -> None:
    code, calls = sitting(tmp_path, 2, "digitss")
    assert code == 2 and len(calls) == 1


def test_images_come_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for ending, part in (("aa", "one, "), ("ab", "two, "), ("ac", "three")):
        (tmp_path / "in" / f"images.tar.gz.part-{ending}").write_text(part)
    sitting(tmp_path, 0, "cifar100")
    assert (tmp_path / "data" / "images.tar.gz").read_text() == "one, two, three"
    (tmp_path / "data" / "images.tar.gz").write_text("unpacked since")
    sitting(tmp_path, 0, "cifar100")
    assert (tmp_path / "data" / "images.tar.gz").read_text() == "unpacked since"
