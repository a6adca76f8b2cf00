"""The suite under load, in a small form."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import results, tracking
from benchmark.datasets.base import DataSet
from benchmark.perf.load import steady, stores, writers
from tests.benchmark.test_tracking import start
from tests.processes import exit_code
from tests.processes import start as start_process


def write(folder: Path, writer: int) -> None:
    counts = writers.multiprocessing.SimpleQueue()
    writers.write(folder, writer, 1.0, counts)
    (folder / f"count-{writer}").write_text(str(counts.get()[1]))


@pytest.mark.processes
def test_processes_that_log_at_once_lose_nothing(runs_folder: Path) -> None:
    processes = [start_process(write, runs_folder, one) for one in range(3)]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    written = {one: int((runs_folder / f"count-{one}").read_text()) for one in range(3)}
    assert min(written.values()) > 0
    assert writers.num_lost(runs_folder, written) == 0
    assert writers.num_lost(runs_folder, {**written, 0: written[0] + 1}) == 1  # the count can fail


def test_a_filled_store_is_one_of_mlflows(runs_folder: Path, digits: DataSet) -> None:
    tracker = tracking.Tracker(runs_folder)
    model = start(tracker, digits, "model")
    tracker.summarise(model, {"final/last": 50.0})
    tracker.end(model, "FINISHED")
    stores.fill(runs_folder / "mlflow.db", 10)
    found = tracker.runs_on(digits.digest)
    assert len({run.signature for run in found}) == 11
    assert len(results.frame(found)) == 11
    assert sum(run.params["tuning"] == "True" for run in found) == 6
    assert {run.metrics["final/last"] for run in found} == {50.0}


def test_thirds_leave_the_start_out() -> None:
    samples = [steady.Sample(float(second), 100.0 + second, 5, 2) for second in range(9)]
    (row,) = steady.to_table({"9 epochs": {"command": samples}}).sections[0].rows
    assert [cell.text for cell in row.cells] == ["9 epochs", "command", "8", "104 → 107", "5 → 5", "2 → 2"]
    assert b"<svg" in steady.figure({"9 epochs": {"command": samples}, "3 cohorts": {"command": samples}})
