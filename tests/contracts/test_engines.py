"""What every engine owes a command: the same weights as anywhere, and events that end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import distillers
from benchmark import plugins
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.engines.base import train_and_report
from benchmark.train import loop
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    LaneDropped,
    LaneFinished,
    Started,
    TeacherFile,
)
from tests.conftest import make_config, make_job

METHODS = ("vanilla", "sdd_dkd", "mlkd")
#: a file that a command has read before its cohorts train
PLUGIN = b"""
from distillers.sample_loss import SampleLoss, sample_loss

@sample_loss("of_a_plugin", title="of a plugin")
class OfAPlugin(SampleLoss):
    '''A difference.'''

    def per_sample(self, student_NK, teacher_NK, target_N):
        return (student_NK - teacher_NK).abs().mean(-1)
"""


def cohort(folder: Path, teacher: TeacherFile) -> CohortJob:
    return make_job(folder, {method: make_config(method) for method in METHODS}, teacher)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, teacher_file: TeacherFile, digits: DataSet) -> CohortJob:
    """The cohort, trained by the loop without any engine."""
    job = cohort(tmp_path_factory.mktemp("expected"), teacher_file)
    loop.train_cohort(job, lambda _: None, data=digits)
    return job


def cohort_of_a_plugin(folder: Path, teacher: TeacherFile) -> CohortJob:
    """A cohort with a method that only its own plugins register."""
    file = folder / "of_a_plugin.py"
    file.write_bytes(PLUGIN)
    plugins.load([file])
    job = make_job(folder / "job", {"of_a_plugin": make_config("of_a_plugin")}, teacher)
    made = replace(job, plugins=plugins.loaded())
    for name in ("of_a_plugin", "sdd_of_a_plugin"):
        distillers.registry.remove(name)
    plugins._loaded.clear()
    file.unlink()
    return made


def marked(name: str) -> Any:
    """An engine's name; what runs on Ray is of one group, which shares a cluster."""
    if name != "ray":
        return pytest.param(name, marks=pytest.mark.xdist_group("engines"))
    return pytest.param(name, marks=[pytest.mark.ray, pytest.mark.xdist_group("ray")])


ENGINES = [marked(name) for name in engines.names()]


@contextmanager
def engine(name: str) -> Iterator[engines.Engine]:
    made = engines.registry.get(name)(1, lambda: False)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.processes
@pytest.mark.usefixtures("plugins_are_forgotten")
@pytest.mark.parametrize("name", ENGINES)
def test_cohorts_are_bit_equal_end_once_and_a_bad_one_does_not_take_the_next(
    name: str, tmp_path: Path, teacher_file: TeacherFile, expected: CohortJob
) -> None:
    damaged = make_job(tmp_path / "damaged", {"vanilla": make_config()})
    damaged.lanes[0].checkpoint.parent.mkdir(parents=True)
    damaged.lanes[0].checkpoint.write_bytes(b"no checkpoint")
    left = make_job(tmp_path / "left", {"kd": make_config("kd", recipe={"epochs": 500})}, teacher_file)
    job, of_a_plugin = cohort(tmp_path / "job", teacher_file), cohort_of_a_plugin(tmp_path, teacher_file)
    named = {id(damaged): "damaged", id(left): "left", id(job): "job", id(of_a_plugin): "of a plugin"}
    events: dict[str, list[EngineEvent]] = {which: [] for which in named.values()}
    with engine(name) as made:
        for one in (damaged, left, job, of_a_plugin):
            made.submit(one)
        for which, event in made.events():
            events[named[id(which)]].append(event)
            if which is left:
                made.drop(left, "kd")  # at every event: what comes too late does no harm
    (crash,) = events["damaged"]
    assert isinstance(crash, CohortCrashed)
    assert crash.is_user_error
    assert str(damaged.lanes[0].checkpoint) in crash.reason
    assert [type(event) for event in events["left"] if isinstance(event, LaneDropped | CohortEnded)] == [
        LaneDropped,
        CohortEnded,
    ]
    assert isinstance(events["job"][0], Started)
    assert [type(event) for event in events["job"]].count(CohortEnded) == 1
    assert isinstance(events["job"][-1], CohortEnded)
    assert {event.signature for event in events["job"] if isinstance(event, LaneFinished)} == set(METHODS)
    assert [event.signature for event in events["of a plugin"] if isinstance(event, LaneFinished)] == ["of_a_plugin"]
    for ours, theirs in zip(job.lanes, expected.lanes, strict=True):
        weights, others = load_file(ours.weights), load_file(theirs.weights)
        assert weights.keys() == others.keys()
        assert all(torch.equal(value, others[key]) for key, value in weights.items())


@pytest.mark.parametrize("name", ENGINES)
def test_an_unused_engine_has_no_events_and_closes(name: str) -> None:
    with engine(name) as made:
        assert list(made.events()) == []


@pytest.mark.parametrize(
    ("error", "is_user_error", "reason"),
    [
        (OSError(28, "No space left on device", "cells.bin"), True, "a file could not be read or written: .*cells.bin"),
        (UserError("the checkpoint is damaged"), True, "the checkpoint is damaged"),
        (ZeroDivisionError("division by zero"), False, "Traceback.*ZeroDivisionError"),
    ],
)
def test_a_crash_is_the_users_to_mend_or_a_bug(
    error: Exception, is_user_error: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train_cohort", crash)
    events: list[EngineEvent] = []
    train_and_report(make_job(tmp_path, {"vanilla": make_config()}), events.append, lambda: False)
    (ended,) = events
    assert isinstance(ended, CohortCrashed)
    assert ended.is_user_error == is_user_error
    assert re.search(reason, ended.reason, re.DOTALL)
