"""The harness of `make test-faults`: it breaks what it names, and sees what is wrong afterwards."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.datasets.base import DataSet
from benchmark.tracking import Tracker
from tests.conftest import make_config
from tests.faults.__main__ import INJECT, faulty
from tests.faults.cases import Fault, faults


def test_every_case_has_a_name_and_breaks_a_place_that_exists() -> None:
    cases = list(faults())
    names = [fault.name for fault in cases]
    assert len(names) == len(set(names))
    for place in {fault.place for fault in cases}:
        module, name = place.split(":")
        holder: object = importlib.import_module(module)
        for part in name.split("."):
            holder = getattr(holder, part)
        assert callable(holder), place


@pytest.mark.processes
@pytest.mark.parametrize(
    ("action", "when", "call", "status", "printed"),
    [
        ("SIGKILL", "after", 1, -signal.SIGKILL, ""),
        ("SIGTERM", "before", 1, -signal.SIGTERM, ""),
        ("out of memory", "before", 2, 1, "MemoryError"),
        ("disk full", "before", 2, 1, "No space left"),
        ("clock ahead", "after", 1, 0, "jumped 86400"),
        ("SIGKILL", "before", 3, 0, "jumped 0"),  # it is called twice only
    ],
)
def test_a_process_breaks_at_the_point_that_was_named(
    action: str, when: str, call: int, status: int, printed: str, tmp_path: Path
) -> None:
    place = "benchmark.errors:nearest"
    fault = Fault("run", "command", "", place, when, action, call)  # type: ignore[arg-type]
    described = {**dataclasses.asdict(fault), "once": str(tmp_path / "once")}
    lines = (
        "import time; begun = time.time()",
        "from benchmark.errors import nearest; nearest('a', ['b']); nearest('a', ['b'])",
        "print('jumped', int(round(time.time() - begun, -2)))",
    )
    variables = {**os.environ, "PYTHONPATH": str(INJECT), "FAULT": json.dumps(described)}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert printed in done.stdout + done.stderr


def execute(statement: str) -> Callable[[Path], object]:
    def harm(runs: Path) -> None:
        with sqlite3.connect(runs / "mlflow.db") as store:
            store.execute(statement)

    return harm


def put(name: str, content: bytes) -> Callable[[Path], object]:
    def harm(runs: Path) -> None:
        place = next(runs.rglob(name), runs / name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    return harm


#: (what is done to a folder, what is said about it)
HARMS = [
    (lambda runs: None, ""),
    (execute("update runs set status = 'RUNNING'"), "1 runs stand as RUNNING"),
    (execute("update runs set status = 'KILLED'"), "s1 has no finished run"),
    (execute("update metrics set step = 1 where key = 'lr'"), "lr of kd was logged 2 times for step 1"),
    (put("student.safetensors", b"other"), "weights differ from an undisturbed run's: ['s1']"),
    (lambda runs: next(runs.rglob("student.safetensors")).unlink(), "weights differ from an undisturbed run's: ['s1']"),
    (put("work/s1", b""), "stray files: ['work/s1']"),
    (put("teachers/a.partial", b""), "stray files: ['teachers/a.partial']"),
]


@pytest.mark.parametrize(("harm", "said"), HARMS)
def test_what_is_wrong_afterwards_is_seen(
    harm: Callable[[Path], object], said: str, runs_folder: Path, digits: DataSet, tmp_path: Path
) -> None:
    tracker = Tracker(runs_folder)
    experiment, about = tracker.experiment("small", {}), {"role": "student", "name": "kd", "parent": None, "tags": {}}
    run_id = tracker.start(experiment, make_config("kd"), "s1", digits, **about)  # type: ignore[arg-type]
    tracker.log_epochs(run_id, [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.01}])
    tracker.artifacts(run_id, {"student.safetensors": b"weights"})
    tracker.end(run_id, "FINISHED")
    expected = tmp_path / "expected"
    put("student.safetensors", b"weights")(expected)
    shutil.copy(runs_folder / "mlflow.db", expected)
    execute(f"update runs set artifact_uri = '{expected}'")(expected)
    harm(runs_folder)
    assert said in list(faulty(runs_folder, expected, "study")) or not said
    assert bool(list(faulty(runs_folder, expected, "study"))) == bool(said)
