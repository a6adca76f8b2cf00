"""The engine on Ray: what it does when workers die, first with a Ray of this process, then with a real cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmark import run as command
from benchmark.config import Data
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.engines import _cluster
from benchmark.execution.engines import _remote as remote
from benchmark.execution.engines.ray import RETRIES, RayEngine
from benchmark.execution.options import Options
from benchmark.train import loop
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    EpochDone,
    LaneFinished,
    Note,
    Started,
    Stopped,
    TeacherFile,
)
from tests.conftest import RAY_NODE, make_config, make_job


class Died(Exception):
    """Ray's error for an actor that died."""


class FakeRay:
    """Ray in this process: an actor answers what it was told to; an exception among that is its death."""

    exceptions = SimpleNamespace(RayError=Died, RayActorError=Died)

    def __init__(self, resources: dict[str, int]) -> None:
        self.resources = resources
        #: answers of the actors that are started, each actor's in order
        self.scripts: list[list[Any]] = []
        self.killed = self.started = 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.resources}, {"Alive": False, "Resources": {"CPU": 99}}]

    def put(self, content: bytes) -> bytes:
        return content

    def remote(self, made: type) -> Any:
        def start() -> Any:
            self.started += 1
            answers = iter(self.scripts.pop(0))
            ask = SimpleNamespace(remote=lambda: lambda: next(answers))
            told = SimpleNamespace(remote=lambda *_: lambda: None)
            return SimpleNamespace(name=ask, take=ask, begin=told, stop=told, drop=told)

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, one: Callable[[], Any]) -> Any:
        if isinstance(answer := one(), Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay({"CPU": 1})
    monkeypatch.setattr(_cluster, "_imported", lambda: made)
    return made


def shipped(*events: EngineEvent) -> list[remote.Shipped]:
    return [remote.Shipped(event, {}) for event in events]


STARTED = Started(0, 3, "a CPU", "AVX2")
DEATH = Died("The actor died.\n\tpid: 1\nThe actor is dead because its node is gone. Some common causes include: x")


def epoch(number: int) -> EpochDone:
    return EpochDone(number, {"vanilla": {}}, 1.0)


def test_a_cohort_goes_on_after_deaths_and_no_epoch_is_reported_twice(tmp_path: Path, fake: FakeRay) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    fake.scripts = [
        ["b", shipped(STARTED, epoch(1), epoch(2)), DEATH],
        ["c", shipped(STARTED, epoch(2), epoch(3)), DEATH],
        ["d", shipped(STARTED, epoch(3), epoch(4), CohortEnded())],
    ]
    engine = RayEngine(1, lambda: False)
    engine.submit(job)
    events = [event for _, event in engine.events()]
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [1, 2, 3, 4]
    assert [event.text for event in events if isinstance(event, Note)] == [
        f"its worker on {host} died: its node is gone.; it resumes from its last checkpoints" for host in "bc"
    ]
    assert isinstance(events[-1], CohortEnded)
    assert fake.killed == 1  # the last one, whose place others may need


@pytest.mark.parametrize("script", [["b", shipped(STARTED), DEATH], [DEATH]])
def test_a_cohort_that_dies_too_often_crashes_also_when_no_worker_starts(
    script: list[Any], tmp_path: Path, fake: FakeRay
) -> None:
    fake.scripts = [[*script] for _ in range(RETRIES + 1)]
    engine = RayEngine(2, lambda: False)
    engine.submit(make_job(tmp_path, {"vanilla": make_config()}))
    events = [event for _, event in engine.events()]
    assert sum(isinstance(event, Note) for event in events) == RETRIES
    assert isinstance(events[-1], CohortCrashed) and not events[-1].is_user_error
    assert "died: its node is gone." in events[-1].reason


def test_when_stopped_what_waits_to_go_on_is_told_so_and_nothing_starts(tmp_path: Path, fake: FakeRay) -> None:
    first, second = (make_job(tmp_path / name, {"vanilla": make_config()}) for name in ("first", "second"))
    fake.scripts = [["b", shipped(STARTED), DEATH]]
    stopping: list[bool] = []
    engine = RayEngine(1, lambda: bool(stopping))
    engine.submit(first)
    engine.submit(second)
    events = []
    for job, event in engine.events():
        events.append((job, event))
        if isinstance(event, Note):
            stopping.append(True)
    (ended,) = [event for job, event in events if isinstance(event, CohortEnded | CohortCrashed)]
    assert isinstance(ended, CohortCrashed) and "stopped before it went on" in ended.reason
    assert {id(job) for job, _ in events} == {id(first)}
    assert fake.started == 1


def test_what_no_machine_can_train_is_refused(tmp_path: Path, fake: FakeRay) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    engine = RayEngine(1, lambda: False)
    with pytest.raises(UserError, match="none of the cluster's 1 machines has 4 CPU"):
        engine.submit(replace(job, threads=4))
    with pytest.raises(UserError, match="none of the cluster's 1 machines has 1 GPU"):
        engine.submit(replace(job, device="cuda"))
    with pytest.raises(UserError, match="use --device cuda"):
        engine.submit(replace(job, device="cuda:1"))


def test_without_ray_the_engine_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray.*sdd-benchmark\[cluster\]"):
        engines.create(Options(tmp_path, tmp_path, engine="ray"), lambda: False)


def test_a_cluster_is_named_by_its_address(fake: FakeRay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark import command_line

    given = command.parser().parse_args(["digits", "--engine", "ray", "--ray-address", "10.0.0.1:6379"])
    given.runs = given.data = tmp_path
    given.device, given.deadline = "cpu", None
    made = engines.create(command_line.options_of(given), lambda: False)
    assert isinstance(made, RayEngine)
    assert made._cluster.address == "10.0.0.1:6379"
    with pytest.raises(UserError, match="only --engine ray joins a cluster"):
        command_line.check_names(command.parser().parse_args(["digits", "--ray-address", "auto"]))
    with pytest.raises(SystemExit):
        command.parser().parse_args(["digits", "--ray-address", "ray://a:1"])
    assert "must be auto or HOST:PORT" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.processes
@pytest.mark.xdist_group("ray")
def test_without_its_process_or_its_node_a_cohort_goes_on_to_the_same_bits(
    ray_cluster: Any, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    """Two cohorts go on from checkpoints, lose their workers, go on again, the last of them until it is stopped."""
    import ray

    node = ray_cluster.add_node(**RAY_NODE, include_log_monitor=False)

    def cohort(folder: str, method: str) -> CohortJob:
        data = Data(name="digits", num_train=64, num_test=20)
        config = make_config(method, recipe={"epochs": 24}, eval_every=12, data=data)
        return make_job(tmp_path / folder / method, {method: config}, teacher_file)

    jobs, expected = ([cohort(folder, method) for method in ("sdd_kd", "vanilla")] for folder in ("jobs", "expected"))
    for one in expected:
        loop.train_cohort(one, lambda _: None, data=digits)
    for one in jobs:
        steps = iter(range(7))
        loop.train_cohort(one, lambda _: None, lambda: next(steps, None) is None, data=digits)  # noqa: B023

    resumed: list[int] = []
    engine = RayEngine(2, lambda: len(resumed) == 2)
    events: dict[int, list[EngineEvent]] = {id(job): [] for job in jobs}
    try:
        for job in jobs:
            engine.submit(job)
        for job, event in engine.events():
            events[id(job)].append(event)
            num_starts = sum(isinstance(one, Started) for one in events[id(job)])
            if isinstance(event, Started) and num_starts == 1:
                (worker,) = [worker for worker in engine._workers if worker.task and worker.task.job is job]
                actor = ray._private.state.actors()[worker.actor._actor_id.hex()]
                if actor["Address"]["NodeID"] == node.node_id:
                    ray_cluster.remove_node(node)
                else:
                    os.kill(actor["Pid"], signal.SIGKILL)
            if isinstance(event, EpochDone) and num_starts == 2 and id(job) not in resumed:
                resumed.append(id(job))
    finally:
        engine.close()
    assert ray.is_initialized()  # it was not the engine that joined
    assert not any(one.node_id == node.node_id for one in ray_cluster.worker_nodes)
    first, last = (events[which] for which in resumed)
    for told in (first, last):
        assert sum(isinstance(one, Note) for one in told) == 1
        assert isinstance(told[-1], CohortEnded)
        starts = [(one.epochs_done, one.steps_done) for one in told if isinstance(one, Started)]
        assert starts[0] == starts[1] > (0, 0)
        epochs = [one.epoch for one in told if isinstance(one, EpochDone)]
        assert epochs == list(range(epochs[0], epochs[-1] + 1))
    assert any(isinstance(one, LaneFinished) for one in first)
    (stopped,) = [one for one in last if isinstance(one, Stopped)]
    for job in jobs:
        if id(job) == resumed[1]:
            goes_on: list[Any] = []
            loop.train_cohort(job, goes_on.append, data=digits)
            assert (goes_on[0].epochs_done, goes_on[0].steps_done) == (stopped.epochs_done, stopped.steps_done)
    for ours, theirs in zip(jobs, expected, strict=True):
        weights, others = load_file(ours.lanes[0].weights), load_file(theirs.lanes[0].weights)
        assert weights.keys() == others.keys()
        assert all(torch.equal(value, others[key]) for key, value in weights.items())
