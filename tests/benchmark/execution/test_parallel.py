"""A cohort that several processes train: it resumes, and a process that dies ends the others, with its reason."""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import replace
from datetime import timedelta
from multiprocessing import active_children
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from benchmark.errors import LostRank, UserError
from benchmark.execution import child, parallel
from benchmark.execution.engines import local
from benchmark.execution.engines.base import train_and_report
from benchmark.execution.engines.local import LocalEngine
from benchmark.train import ranks
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
from benchmark.train.ranks import Ranks
from tests.conftest import make_config, make_job
from tests.processes import exit_code, pipe, start

METHODS = ("vanilla", "fitnet")


def cohort(folder: Path, teacher: TeacherFile | None, *methods: str) -> CohortJob:
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
    assert time.monotonic() - killed_at < 60  # the ranks' own timeout is a day
    assert events[0] == replace(events[0], epochs_done=0, steps_done=2)
    assert isinstance(events[-1], CohortCrashed)
    assert events[-1].reason == "rank 1 ended with SIGKILL"
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


def end(channel: Connection) -> None:
    """End before anything is said."""
    os._exit(4)


def test_a_rank_that_ends_before_it_connects_is_not_waited_for() -> None:
    ours, theirs = pipe()
    others = parallel._Others()
    others.members.append((cast(SpawnProcess, start(end, theirs)), ours))
    theirs.close()
    with pytest.raises(LostRank, match="rank 1 ended with exit code 4"):
        others.await_start()


def test_ranks_without_a_gpu_each_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    job = make_job(tmp_path, {"vanilla": make_config(ranks=2)}, device="cuda")
    assert [parallel.at_rank(job, rank).device for rank in range(2)] == ["cuda:0", "cuda:1"]
    with pytest.raises(UserError, match="2 processes on this machine need a GPU each, from cuda:1 on, and 2 are"):
        parallel.at_rank(replace(job, device="cuda:1"), 1)


def test_workers_share_the_gpus_in_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU: what a worker would be started with is looked at."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "_Worker", lambda number, gpus: SimpleNamespace(number=number, gpus=gpus))
    engine = LocalEngine(workers=3)
    for _ in range(3):
        engine._workers.append(engine._started(make_job(tmp_path, {"a": make_config(ranks=2)}, device="cuda")))
    seen = [cast(Any, worker).gpus["CUDA_VISIBLE_DEVICES"] for worker in engine._workers]
    assert seen == ["0,2,4", "1,3", "0,2,4"]


def fail_alone(job: CohortJob, *others: object, ranks: Ranks, **more: object) -> None:
    """Fail in the first rank, for which the others wait in vain."""
    if ranks.is_first:
        raise ValueError("out of memory")
    ranks.total(torch.ones(1))


def follow_one_that_fails(job: CohortJob) -> None:
    parallel.train_cohort = fail_alone
    follow(job)


def test_processes_of_torchrun_do_not_go_on_after_an_error_of_one(
    tmp_path: Path, meeting_place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "train_cohort", fail_alone)
    monkeypatch.setattr(ranks, "TIMEOUT", timedelta(seconds=15))  # for what would otherwise hang
    job = cohort(tmp_path, None, "vanilla")
    other = start(follow_one_that_fails, job)
    with parallel.first_of_launched(2):
        events = [*trained(job), *trained(job)]
    assert exit_code(other) == 1
    first, second = [event.reason for event in events if isinstance(event, CohortCrashed)]
    assert first.endswith("ValueError: out of memory")
    assert second.startswith("not started")


def follow(job: CohortJob) -> None:
    """Be the second process that torchrun started."""
    os.environ["LOCAL_RANK"] = "1"
    parallel.follow(1, 2, job.data_root, job.cache)


@pytest.fixture
def meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that torchrun does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        monkeypatch.setenv(name, value)


def test_processes_that_torchrun_started_train_the_same(
    tmp_path: Path, teacher_file: TeacherFile, whole: CohortJob, meeting_place: None
) -> None:
    job = cohort(tmp_path, teacher_file, "vanilla")
    other = child.start(follow, job)
    with parallel.first_of_launched(2):
        assert isinstance(trained(job)[-1], CohortEnded)
    assert exit_code(other) == 0
    expected = load_file(whole.lanes[0].weights)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(job.lanes[0].weights).items())
