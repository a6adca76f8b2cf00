"""A cohort that several processes train: it resumes, and a process that dies ends the others, with its reason."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmark.execution import child, parallel
from benchmark.execution.engines.base import train_and_report
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    EpochDone,
    LaneDropped,
    LaneFinished,
    Stopped,
    TeacherFile,
)
from tests.conftest import make_config, make_job
from tests.processes import exit_code

METHODS = ("vanilla", "fitnet")


def cohort(folder: Path, teacher: TeacherFile, *methods: str) -> CohortJob:
    return make_job(folder, {method: make_config(method, ranks=2) for method in methods or METHODS}, teacher)


def trained(job: CohortJob, stop_after: int | None = None, unwanted: set[str] | None = None) -> list[EngineEvent]:
    """Train a cohort; stop after some questions whether to."""
    asked = iter(range(1_000_000))
    events: list[EngineEvent] = []
    train_and_report(job, events.append, lambda: next(asked) == stop_after, unwanted or set())
    return events


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher_file: TeacherFile) -> CohortJob:
    """A cohort, trained at one go beside a lane that is dropped."""
    folder = tmp_path_factory.mktemp("whole")
    events = trained(cohort(folder, teacher_file, *METHODS, "kd"), unwanted={"kd"})
    assert isinstance(events[-1], CohortEnded)
    assert [event.signature for event in events if isinstance(event, LaneDropped)] == ["kd"]
    assert [list(event.rows) for event in events if isinstance(event, EpochDone)] == [list(METHODS)] * 2
    assert [event.signature for event in events if isinstance(event, LaneFinished)] == list(METHODS)
    return cohort(folder, teacher_file)


def test_a_cohort_that_was_stopped_and_lost_a_rank_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, teacher_file: TeacherFile, whole: CohortJob
) -> None:
    job, killed_at = cohort(tmp_path, teacher_file), math.inf
    stopped = next(event for event in trained(job, stop_after=2) if isinstance(event, Stopped))
    assert (stopped.epochs_done, stopped.steps_done) == (0, 2)
    events: list[EngineEvent] = []

    def report(event: EngineEvent) -> None:
        nonlocal killed_at
        events.append(event)
        if isinstance(event, EpochDone):
            killed_at = time.monotonic()
            for process in active_children():
                process.kill()

    train_and_report(job, report, lambda: False)
    assert time.monotonic() - killed_at < 10
    assert events[0] == replace(events[0], epochs_done=0, steps_done=2)
    assert isinstance(events[-1], CohortCrashed)
    assert events[-1].reason.endswith("rank 1 ended with SIGKILL")
    assert not active_children()
    assert isinstance(trained(job)[-1], CohortEnded)
    for mine, other in zip(job.lanes, whole.lanes, strict=True):
        expected = load_file(other.weights)
        for name, value in load_file(mine.weights).items():
            assert torch.equal(value, expected[name]), name


def test_a_mistake_of_the_user_that_another_rank_meets_is_reported_as_such(
    tmp_path: Path, teacher_file: TeacherFile
) -> None:
    job = cohort(tmp_path, replace(teacher_file, checksum="0" * 64), "kd")
    (event,) = trained(job)
    assert isinstance(event, CohortCrashed)
    assert event.is_user_error and "checksum" in event.reason


def follow(job: CohortJob) -> None:
    """Be the second process that torchrun started."""
    os.environ["LOCAL_RANK"] = "1"
    parallel.follow(1, 2, job.data_root, job.cache)


def test_processes_that_torchrun_started_train_the_same(
    tmp_path: Path, teacher_file: TeacherFile, whole: CohortJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        monkeypatch.setenv(name, value)
    job = cohort(tmp_path, teacher_file, "vanilla")
    other = child.start(follow, job)
    with parallel.first_of_launched(2):
        assert isinstance(trained(job)[-1], CohortEnded)
    assert exit_code(other) == 0
    expected = load_file(whole.lanes[0].weights)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(job.lanes[0].weights).items())
