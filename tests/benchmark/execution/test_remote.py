"""Cohorts on hosts that share no folder with the command."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from benchmark.config import Data
from benchmark.datasets.base import DataSet
from benchmark.execution.engines import _remote as remote
from benchmark.execution.engines._remote import Shipped
from benchmark.train import checkpoint, loop
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    EpochDone,
    LaneDropped,
    Started,
    Stopped,
    TeacherFile,
)
from tests.benchmark.datasets.test_folder import write
from tests.conftest import make_config, make_job


@pytest.fixture(autouse=True)
def _hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scratch folders and caches of hosts lie apart; afterwards no cohort has left anything in the former."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    yield
    assert list(scratch.glob(f"{remote._SCRATCH}*")) == []


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(platform, "node", lambda: name)


def trained(
    job: CohortJob,
    on_host: Callable[[str], None],
    stop_after: int | None = None,
    unwanted: set[str] | None = None,
    say: str = "",
) -> tuple[list[EngineEvent], list[logging.LogRecord]]:
    """Train a cohort elsewhere, and handle its events afterwards, as a command far away would."""
    on_host("front")
    sent = remote.packed(job, unwanted or ())
    weights = None if job.teacher is None else job.teacher.path.read_bytes()
    arrived: list[Shipped | logging.LogRecord] = []
    before = {path: path.read_bytes() for path in files_of(job)}

    def stop() -> bool:
        if say:
            logging.getLogger("benchmark.train").error(say)
        return any(
            isinstance(one, Shipped) and isinstance(one.event, EpochDone) and one.event.epoch == stop_after
            for one in arrived
        )

    on_host("far")
    remote.train(sent, weights, arrived.append, stop, set(unwanted or ()))
    on_host("front")
    assert {path: path.read_bytes() for path in files_of(job)} == before  # nothing was written in the command's folder
    events = [remote.unpacked(job, one) for one in arrived if isinstance(one, Shipped)]
    return events, [one for one in arrived if isinstance(one, logging.LogRecord)]


def files_of(job: CohortJob) -> list[Path]:
    return [path for lane in job.lanes for path in lane.checkpoint.parent.glob("*")]


def two_lanes(folder: Path, teacher: TeacherFile) -> CohortJob:
    job = make_job(folder, {"vanilla": make_config(), "sdd_kd": make_config("sdd_kd")}, teacher)
    return replace(job, data_root=folder / "not here")  # embedded images need no folder


def test_a_cohort_goes_from_host_to_host_to_the_same_bits(
    tmp_path: Path, teacher_file: TeacherFile, digits: DataSet, on_host: Callable[[str], None]
) -> None:
    job, expected = two_lanes(tmp_path / "job", teacher_file), two_lanes(tmp_path / "expected", teacher_file)
    loop.train_cohort(expected, lambda _: None, data=digits)
    first, _ = trained(job, on_host, stop_after=1)
    assert isinstance(first[0], Started) and first[0].host == "far"
    assert isinstance(first[-2], Stopped) and isinstance(first[-1], CohortEnded)
    assert all(lane.checkpoint.exists() and not lane.weights.exists() for lane in job.lanes)
    second, _ = trained(job, on_host)
    assert isinstance(second[0], Started) and second[0].epochs_done == 1
    assert isinstance(second[-1], CohortEnded)
    for ours, theirs in zip(job.lanes, expected.lanes, strict=True):
        weights, others = load_file(ours.weights), load_file(theirs.weights)
        assert weights.keys() == others.keys()
        assert all(torch.equal(value, others[key]) for key, value in weights.items())


def test_a_dropped_lane_leaves_its_epochs_to_be_recorded(
    tmp_path: Path, teacher_file: TeacherFile, on_host: Callable[[str], None]
) -> None:
    job = two_lanes(tmp_path, teacher_file)
    trained(job, on_host, stop_after=1)
    events, _ = trained(job, on_host, unwanted={"sdd_kd"})
    assert [event.signature for event in events if isinstance(event, LaneDropped)] == ["sdd_kd"]
    dropped = next(lane for lane in job.lanes if lane.signature == "sdd_kd")
    assert [row["epoch"] for row in checkpoint.load(dropped.checkpoint)["history"]] == [1]


def test_a_cohort_deletes_what_killed_processes_left_on_its_host(
    tmp_path: Path, teacher_file: TeacherFile, on_host: Callable[[str], None]
) -> None:
    """Not what another one holds, what was just begun, or what only is called so."""
    kinds = "left", "held", "begun", "without a lock"
    left, held, begun, without = places = [tmp_path / "scratch" / f"{remote._SCRATCH}{kind}" for kind in kinds]
    for place in places:
        place.mkdir()
        (place / "resnet8.safetensors").write_bytes(b"weights")
    for place in (left, held, begun):
        (place / remote._LOCK).touch()
    for place in (left, held, without):
        for path in (place, *place.iterdir()):
            os.utime(path, (0, 0))
    with FileLock(held / remote._LOCK):
        os.utime(held / remote._LOCK, (0, 0))
        trained(two_lanes(tmp_path / "job", teacher_file), on_host, stop_after=1)
    assert [place.exists() for place in places] == [False, True, True, True]
    for place in (held, begun, without):
        shutil.rmtree(place)


def test_words_name_the_host_and_the_commands_paths(tmp_path: Path, on_host: Callable[[str], None]) -> None:
    job = make_job(tmp_path, {"vanilla": make_config(recipe={"epochs": 1})})
    path = job.lanes[0].checkpoint
    path.parent.mkdir()
    path.write_bytes(b"no checkpoint")
    (crash,), _ = trained(job, on_host)
    assert isinstance(crash, CohortCrashed) and crash.is_user_error
    assert crash.reason.startswith(f"on far: checkpoint {path} is damaged")
    path.unlink()
    _, lines = trained(job, on_host, say="a line")
    assert "far: a line" in {line.getMessage() for line in lines}


def test_images_lie_where_the_host_says_or_are_missed_by_name(
    tmp_path: Path, on_host: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "far" / "birds", count=8)
    config = make_config(data=Data(name="folder", options={"path": "birds", "image_size": 28}), recipe={"epochs": 1})
    job = replace(make_job(tmp_path / "job", {"vanilla": config}), data_root=tmp_path / "front")
    (crash,), _ = trained(job, on_host)
    assert isinstance(crash, CohortCrashed) and crash.is_user_error
    assert crash.reason.startswith(f"on far: there is no folder {tmp_path / 'front'}: put the data there, or name")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "far"))
    assert isinstance(trained(job, on_host)[0][-1], CohortEnded)
    (crash,), _ = trained(replace(job, data_digest="0" * 64), on_host)
    assert isinstance(crash, CohortCrashed) and crash.is_user_error
    assert "are not those that the command found" in crash.reason


def test_other_versions_are_refused(
    tmp_path: Path, on_host: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_host("front")
    sent = remote.packed(make_job(tmp_path, {"vanilla": make_config()}))
    monkeypatch.setattr(remote, "versions", lambda: {**sent.versions, "torch": "1.0"})
    on_host("far")
    arrived: list[Shipped | logging.LogRecord] = []
    remote.train(sent, None, arrived.append, lambda: False, ())
    (shipped,) = [one for one in arrived if isinstance(one, Shipped)]
    assert isinstance(shipped.event, CohortCrashed) and shipped.event.is_user_error
    assert f"torch 1.0 (there: {sent.versions['torch']})" in shipped.event.reason
