"""Processes that log into one store at once, and a count of what arrived."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from rich.console import Console

from benchmark.tracking import Tracker

_EPOCHS = 12
_METRICS = ("lr", "train/loss", "test/top1")


def write_at_once(folder: Path, processes: int, seconds: float, console: Console) -> int:
    """Log runs from several processes for so long; return how many values, tags and artifacts were lost."""
    Tracker(folder)
    spawned = multiprocessing.get_context("spawn")
    counts = spawned.Queue()
    started = [spawned.Process(target=write, args=(folder, one, seconds, counts)) for one in range(processes)]
    for process in started:
        process.start()
    written = dict(counts.get(timeout=seconds + 300) for _ in started)
    for process in started:
        process.join()
    lost = num_lost(folder, written)
    console.print(
        f"{processes} processes logged {sum(written.values()):,} runs of {_EPOCHS} epochs in {seconds:g} s into one"
        f" store; lost: {lost}"
    )
    return lost


def write(folder: Path, writer: int, seconds: float, counts: multiprocessing.Queue[tuple[int, int]]) -> None:
    """Log runs for so long, and put how many there were."""
    tracker = Tracker(folder)
    experiment = tracker.experiment("load", {"suite": "load"})
    until, done = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        tags = {"signature": f"{writer}-{done}"}
        run_id = str(tracker.client.create_run(experiment, tags=tags).info.run_id)
        for epoch in range(1, _EPOCHS + 1):
            tracker.log_epochs(run_id, [{"epoch": epoch, **dict.fromkeys(_METRICS, float(epoch))}])
        tracker.artifacts(run_id, {"config.json": tags["signature"].encode()})
        tracker.end(run_id, "FINISHED", note=tags["signature"])
        done += 1
    counts.put((writer, done))


def num_lost(folder: Path, written: dict[int, int]) -> int:
    """Count what is missing of the runs that each writer logged."""
    tracker = Tracker(folder)
    found = {run.signature: run for run in tracker.runs_in(list(tracker.experiments().values()))}
    lost = 0
    for signature in (f"{writer}-{number}" for writer, count in written.items() for number in range(count)):
        run = found.get(signature)
        if run is None:
            lost += 1
            continue
        lost += run.status != "FINISHED"
        lost += run.tags.get("note") != signature
        lost += len(tracker.client.list_artifacts(run.run_id)) != 1
        expected = [(epoch, float(epoch)) for epoch in range(1, _EPOCHS + 1)]
        lost += sum(tracker.history(run.run_id, name) != expected for name in _METRICS)
    return lost
