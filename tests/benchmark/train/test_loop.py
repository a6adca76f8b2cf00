"""The loop: a run's weights depend on nothing but the run."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark import datasets, results
from benchmark.config import Data, RunConfig
from benchmark.datasets import image_files
from benchmark.datasets.base import DataSet
from benchmark.datasets.image_files import decode
from benchmark.errors import UserError
from benchmark.execution import child
from benchmark.execution.engines import local
from benchmark.execution.engines.local import LocalEngine
from benchmark.train import checkpoint, loop, pace
from benchmark.train.batches import TrainStream
from benchmark.train.lane import Lane
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EpochDone,
    Event,
    LaneDropped,
    LaneFailed,
    LaneFinished,
    Started,
    StepsDone,
    Stopped,
    TeacherFile,
)
from benchmark.train.ranks import LostContact, Ranks
from tests.benchmark.datasets.test_folder import write
from tests.conftest import make_config, make_job
from tests.imagenet import WNIDS, write_tree
from tests.processes import exit_code, pipe, start

FOUR = ("vanilla", "kd", "sdd_dkd", "sdd_mlkd")


def configs(*methods: str, **changes: object) -> dict[str, RunConfig]:
    return {method: make_config(method, **changes) for method in methods}


def run(job: CohortJob, data: DataSet | None = None) -> list[Event]:
    events: list[Event] = []
    loop.train_cohort(job, events.append, data=data)
    return events


def weights(job: CohortJob, name: str) -> dict[str, Tensor]:
    return load_file(next(lane.weights for lane in job.lanes if lane.signature == name))


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, teacher_file: TeacherFile, digits: DataSet) -> CohortJob:
    """A cohort of four, trained in this process."""
    job = make_job(tmp_path_factory.mktemp("four"), configs(*FOUR), teacher_file)
    events = run(job, digits)
    assert [type(event) for event in events if isinstance(event, LaneFinished)] == [LaneFinished] * 4
    return job


@pytest.mark.parametrize("method", FOUR)
def test_a_lane_alone_is_bit_equal_to_the_same_lane_in_a_cohort_of_four(
    method: str, four: CohortJob, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    alone = make_job(tmp_path, configs(method), teacher_file if method != "vanilla" else None)
    run(alone, digits)
    assert_equal(weights(alone, method), weights(four, method))


@pytest.mark.parametrize("method", ["vanilla", "sdd_kd"])
def test_a_lane_without_a_teacher_is_the_same_beside_any_other(
    method: str, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    """Vanilla beside a scale-decoupled method alone: no neighbour asks for the teacher's own logits."""
    both = make_job(tmp_path / "both", configs("vanilla", "sdd_kd"), teacher_file)
    alone = make_job(tmp_path / "alone", configs(method), teacher_file if method != "vanilla" else None)
    rows = {}
    for name, job in (("both", both), ("alone", alone)):
        finished = [e for e in run(job, digits) if isinstance(e, LaneFinished) and e.signature == method]
        rows[name] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in finished[0].history]
    assert rows["both"] == rows["alone"]
    assert ("test/agreement" in rows["both"][0]) == (method != "vanilla")
    assert_equal(weights(both, method), weights(alone, method))


def test_dropout_draws_from_the_lanes_own_stream(tmp_path: Path, digits: DataSet) -> None:
    # torchvision's mobilenet_v2 has dropout in its classifier
    student = "torchvision/mobilenet_v2"
    change = {"student": student, "recipe": {"epochs": 1, "batch_size": 8}}
    small = {"data": Data(name="digits", num_train=16, num_test=10)}
    one, other = (
        make_config(**change, **small),
        make_config(**{**change, "student": "torchvision/mobilenet_v2"}, **small),
    )
    alone, both = make_job(tmp_path / "alone", {"a": one}), make_job(tmp_path / "both", {"b": other, "a": one})
    run(alone, digits)
    run(both, digits)
    assert_equal(weights(alone, "a"), weights(both, "a"))


def train_until_killed(job: CohortJob) -> None:
    """Train, and end by SIGKILL after the first step of the second epoch."""
    pace.CHECKPOINT_SECONDS = loop.PROGRESS_SECONDS = 0.0
    pace.SAVING_SHARE = math.inf

    def report(event: Event) -> None:
        if isinstance(event, StepsDone) and event.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train_cohort(job, report)


@pytest.fixture
def every_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(pace, "SAVING_SHARE", math.inf)


@pytest.mark.processes
def test_two_epochs_are_a_part_and_a_kill_and_the_rest(
    four: CohortJob, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    job = make_job(tmp_path, configs(*FOUR), teacher_file)
    assert exit_code(start(train_until_killed, job)) == -signal.SIGKILL
    assert checkpoint.place(checkpoint.load(job.lanes[0].checkpoint)) == "in epoch 2, after 1 of 3 steps"
    assert not job.lanes[0].weights.exists()
    events = run(job, digits)
    assert events[0] == replace(started(events), epochs_done=1, steps_done=1)
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2]
    for method in FOUR:
        assert_equal(weights(job, method), weights(four, method))
        history = next(e.history for e in events if isinstance(e, LaneFinished) and e.signature == method)
        assert [row["epoch"] for row in history] == [1, 2]


def test_a_run_killed_after_its_last_checkpoint_only_reports(
    tmp_path: Path, digits: DataSet, teacher_file: TeacherFile
) -> None:
    job = make_job(tmp_path, configs("kd"), teacher_file)
    first = run(job, digits)
    job.lanes[0].weights.unlink()
    again = run(job, digits)
    assert not [event for event in again if isinstance(event, EpochDone)]
    finished = [next(e for e in events if isinstance(e, LaneFinished)) for events in (first, again)]
    assert finished[0].history == finished[1].history
    assert finished[0].per_class == finished[1].per_class


def started(events: list[Event]) -> Started:
    return next(event for event in events if isinstance(event, Started))


def test_stopping_saves_where_the_lanes_stand(tmp_path: Path, digits: DataSet) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    events: list[Event] = []
    loop.train_cohort(job, events.append, stop=lambda: any(isinstance(e, EpochDone) for e in events), data=digits)
    assert events[-1] == Stopped(1, 0, 3)
    assert checkpoint.place(checkpoint.load(job.lanes[0].checkpoint)) == "after epoch 1"
    assert sit(job, digits, 2)[-1] == Stopped(1, 1, 3)
    assert checkpoint.place(checkpoint.load(job.lanes[0].checkpoint)) == "in epoch 2, after 1 of 3 steps"


def sit(job: CohortJob, data: DataSet | None, questions: int) -> list[Event]:
    """Train until the given question whether to stop, which are asked around every step and evaluated batch."""
    events: list[Event] = []
    asked = iter(range(1, 1_000_000))
    loop.train_cohort(job, events.append, stop=lambda: next(asked) >= questions, data=data)
    return events


def in_sittings(job: CohortJob, data: DataSet | None) -> tuple[list[Event], list[str]]:
    """Train to the end in sittings of a step or two; return the events of the last one, and where each began."""
    places: list[str] = []
    while len(places) < 50:
        events = sit(job, data, 3 + len(places) % 2)  # the teacher's part of an evaluation, and the student's
        start = started(events)
        places.append(checkpoint.place_of(start.epochs_done, start.steps_done, start.steps_per_epoch))
        if not isinstance(events[-1], Stopped):
            return events, places
    raise AssertionError(places)


def histories(events: list[Event]) -> dict[str, list[dict[str, float]]]:
    """What the lanes reached, without the times that it took."""
    return {
        e.signature: [{k: v for k, v in row.items() if not k.startswith("time/")} for row in e.history]
        for e in events
        if isinstance(e, LaneFinished)
    }


#: one of each kind: on logits, by regions, of two views, over the batch; with a trained temperature, memories,
#: connectors, and tested through them
KINDS = ("vanilla", "kd", "sdd_kd", "dist", "sdd_mlkd", "ctkd", "crd", "semckd", "reviewkd", "simkd")


def test_methods_of_every_kind_end_with_the_same_bits_in_many_sittings(
    tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    """In company, alone, and in other company than before."""
    chosen = configs(*KINDS, data=Data(name="digits", num_train=20, num_test=20), recipe={"batch_size": 8})
    whole = make_job(tmp_path / "whole", chosen, teacher_file)
    expected = histories(run(whole, digits))
    assert expected.keys() == chosen.keys()
    parts = make_job(tmp_path / "parts", chosen, teacher_file)
    sit(parts, digits, 3)
    alone = replace(parts, lanes=parts.lanes[:1])
    others = replace(parts, lanes=parts.lanes[1:])
    for job in (alone, others):
        events, places = in_sittings(job, digits)
        assert places[0] == "in epoch 1, after 2 of 3 steps"
        assert {"in epoch 2, after 3 of 3 steps"} < set(places)  # nothing but the evaluation was left
        assert histories(events) == {lane.signature: expected[lane.signature] for lane in job.lanes}
        for lane in job.lanes:
            assert_equal(weights(parts, lane.signature), weights(whole, lane.signature))


@pytest.mark.parametrize("kind", ["dropout", "cached", "streamed", "cropped"])
def test_a_part_of_an_epoch_goes_on_with_the_same_bits(
    kind: str, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    """With random numbers that the network draws, the teacher's outputs from disk, images or their crops from files."""
    data: DataSet | None = digits
    if kind == "dropout":
        few = {"data": Data(name="digits", num_train=24, num_test=10), "recipe": {"batch_size": 8, "epochs": 1}}
        lanes = {"a": make_config(student="torchvision/mobilenet_v2", **few)}
    elif kind == "cached":
        lanes = configs("kd", "sdd_mlkd", teacher_cache="fp16")
    elif kind == "cropped":
        write_tree(tmp_path / "imagenet", WNIDS[:2], per_class=8, scale=0.1, val_per_class=2)
        data = datasets.create("imagenet", tmp_path, num_workers=0)
        for split in (data.train, data.test):
            split._files._side = 28  # type: ignore[attr-defined]
        data = replace(data, image_size=28)
        lanes = {"a": make_config(data=Data(name="imagenet"), recipe={"batch_size": 4})}
    else:
        write(tmp_path / "birds", count=8)
        streamed = {"path": str(tmp_path / "birds"), "image_size": 28, "memory_gb": 0, "num_workers": 0}
        images = Data(name="folder", options=streamed)
        lanes, data = {"a": make_config(data=images, recipe={"batch_size": 4})}, None
    jobs = {name: make_job(tmp_path / name, lanes, teacher_file) for name in ("whole", "parts")}
    expected = histories(run(jobs["whole"], data))
    events, places = in_sittings(jobs["parts"], data)
    assert "in epoch 1, after 2 of" in " ".join(places)
    assert histories(events) == expected
    for name in lanes:
        assert_equal(weights(jobs["parts"], name), weights(jobs["whole"], name))


def test_what_is_skipped_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "birds", count=8)
    data = datasets.create("folder", tmp_path, path="birds", image_size=28, memory_gb=0, num_workers=0)
    decoded: list[str] = []
    monkeypatch.setattr(image_files, "decode", lambda path, side: decoded.append(path) or decode(path, side))
    members = torch.arange(len(data.train))
    stream = TrainStream(data, data.train, members, make_config().recipe.model_copy(update={"batch_size": 4}), 1,
                         ("weak", "strong"), torch.device("cpu"))  # fmt: skip
    whole = list(stream.epoch(2))
    decoded.clear()
    rest = [stream.batch(drawn) for drawn in stream.drawn(2, skipped=2)]
    assert len(decoded) == len(members) - 8
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.target_B, theirs.target_B)
        assert all(torch.equal(ours.views[view], theirs.views[view]) for view in ("weak", "strong"))
    decoded.clear()
    assert list(stream.drawn(2, skipped=len(whole))) == []
    assert decoded == []


def test_within_an_epoch_saving_keeps_to_its_share_of_the_time(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes 20 seconds, and saving 3, then 1."""
    clock = [0.0]
    saved: list[tuple[str, float]] = []

    def save(path: Path, state: dict[str, object]) -> None:
        saved.append((checkpoint.place(state), clock[0]))
        clock[0] += 1.0 if len(saved) > 1 else 3.0

    step = Lane.step

    def slow(lane: Lane, *arguments: object) -> None:
        step(lane, *arguments)  # type: ignore[arg-type]
        clock[0] += 20.0

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(Lane, "step", slow)
    small = Data(name="digits", num_train=80, num_test=10)
    run(make_job(tmp_path, {"a": make_config(data=small, recipe={"epochs": 1, "batch_size": 8})}), digits)
    # 30 s at first, then 20 times the 3 s that it took, then 30 s again, and the end in any case
    assert saved == [
        ("in epoch 1, after 2 of 10 steps", 40.0),
        ("in epoch 1, after 6 of 10 steps", 123.0),
        ("in epoch 1, after 8 of 10 steps", 164.0),
        ("after epoch 1", 205.0),
    ]


def test_a_loss_that_was_not_finite_is_never_saved(tmp_path: Path, digits: DataSet, every_step_is_saved: None) -> None:
    bad = make_config(recipe={"lr": 1e30, "clip_norm": None})
    job = make_job(tmp_path, {"bad": bad, "good": make_config()})
    events = run(job, digits)
    failed = [event for event in events if isinstance(event, LaneFailed)]
    assert [(e.signature, e.reason, e.final) for e in failed] == [
        ("bad", "the loss was not finite at epoch 1, step 2", True)
    ]
    assert checkpoint.place(checkpoint.load(job.lanes[0].checkpoint)) == "in epoch 1, after 1 of 3 steps"
    assert [event.signature for event in events if isinstance(event, LaneFinished)] == ["good"]


def test_a_loss_that_was_not_finite_is_not_saved_when_stopped(tmp_path: Path, digits: DataSet) -> None:
    job = make_job(tmp_path, {"bad": make_config(recipe={"lr": 1e30, "clip_norm": None})})
    assert [type(event) for event in sit(job, digits, 4)] == [Started, LaneFailed]
    assert not job.lanes[0].checkpoint.exists()


def test_a_non_finite_loss_ends_its_lane_alone(tmp_path: Path, digits: DataSet) -> None:
    bad = make_config(recipe={"lr": 1e30, "clip_norm": None})
    job = make_job(tmp_path, {"bad": bad, "good": make_config()})
    events = run(job, digits)
    failed = [event for event in events if isinstance(event, LaneFailed)]
    assert [(event.signature, event.final) for event in failed] == [("bad", True)]
    assert failed[0].reason == "the loss was not finite at epoch 1, step 2"
    assert [event.signature for event in events if isinstance(event, LaneFinished)] == ["good"]
    assert not job.lanes[0].checkpoint.exists()


def test_a_network_that_diverges_in_the_last_step_ends_its_lane_alone(tmp_path: Path, digits: DataSet) -> None:
    """Its losses were finite; what they did to the weights was not."""
    data = make_config().data.model_copy(update={"num_train": 32})
    bad = make_config(recipe={"lr": 1e38, "clip_norm": None}, data=data)
    job = make_job(tmp_path, {"bad": bad, "good": make_config(data=data)})
    events = run(job, digits)
    failed = [(e.signature, e.reason, e.final) for e in events if isinstance(e, LaneFailed)]
    assert failed == [("bad", "the logits were not finite after epoch 1", True)]
    assert [event.signature for event in events if isinstance(event, LaneFinished)] == ["good"]


def test_a_lane_that_raises_leaves_the_others(tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Lane.step

    def breaks(lane: Lane, *arguments: object) -> None:
        if lane.config.method == "kd":
            raise RuntimeError("out of something")
        step(lane, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Lane, "step", breaks)
    kd = make_config("kd").model_copy(update={"teacher": None})
    events = run(make_job(tmp_path, {"kd": kd, "vanilla": make_config()}), digits)
    failed = next(event for event in events if isinstance(event, LaneFailed))
    assert not failed.final
    assert "out of something" in failed.reason
    assert [event.signature for event in events if isinstance(event, LaneFinished)] == ["vanilla"]


def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path: Path, digits: DataSet) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    run(job, digits)
    path = job.lanes[0].checkpoint
    path.write_bytes(path.read_bytes()[:-100])
    checkpoint.previous(path).unlink(missing_ok=True)
    before = path.read_bytes()
    with pytest.raises(UserError, match="damaged or truncated"):
        run(job, digits)
    assert path.read_bytes() == before


def test_from_the_checkpoint_before_a_damaged_one_the_same_weights_come_out(
    tmp_path: Path, digits: DataSet, every_step_is_saved: None
) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    run(job, digits)
    path, expected = job.lanes[0].checkpoint, job.lanes[0].weights.read_bytes()
    before, end = "in epoch 2, after 2 of 3 steps", "after epoch 2"
    assert checkpoint.place(checkpoint.load(checkpoint.previous(path))) == before
    path.write_bytes(path.read_bytes()[:-100])
    job.lanes[0].weights.unlink()
    run(job, digits)
    assert job.lanes[0].weights.read_bytes() == expected
    assert [checkpoint.place(checkpoint.load(one)) for one in (path, checkpoint.previous(path))] == [end, before]


def test_a_checkpoint_that_does_not_fit_its_run_is_refused(tmp_path: Path, digits: DataSet) -> None:
    job = make_job(tmp_path, {"vanilla": make_config()})
    checkpoint.save(job.lanes[0].checkpoint, {"signature": "vanilla", "epochs_done": 1, "network": {}})
    with pytest.raises(UserError, match=r"does not fit its run \(RuntimeError"):
        run(job, digits)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, digits: DataSet) -> None:
    first, other = (make_job(tmp_path, {name: make_config()}) for name in ("first", "other"))
    run(first, digits)
    first.lanes[0].checkpoint.rename(other.lanes[0].checkpoint.parent.mkdir() or other.lanes[0].checkpoint)
    with pytest.raises(UserError, match="belongs to another run"):
        run(other, digits)


@pytest.mark.processes
def test_a_worker_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    """The first at once; the one that replaces it in the middle of its cohort, not by what a terminal sends to all."""
    write(tmp_path / "birds", count=8)
    data = Data(name="folder", options={"path": "birds", "image_size": 28})
    first, second = (
        replace(make_job(tmp_path, {name: make_config(data=data, recipe={"epochs": 500})}), data_root=tmp_path)
        for name in ("first", "second")
    )
    epochs: list[int] = []
    crashed: list[tuple[CohortJob, str]] = []
    engine = LocalEngine(workers=1)
    try:
        engine.submit(first)
        engine.submit(second)
        assert not engine._workers[0].process.daemon  # where images are streamed, it has processes of its own
        os.kill(engine._workers[0].process.pid or 0, signal.SIGKILL)
        for which, event in engine.events():
            if isinstance(event, EpochDone):
                epochs.append(event.epoch)
                process = engine._workers[0].process
                if event.epoch > 1:
                    process.kill()  # it may have died of the one before
                    continue
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(process.pid or 0, number)
            if isinstance(event, CohortCrashed):
                crashed.append((which, event.reason))
    finally:
        engine.close()
    reason = "its worker process ended with SIGKILL (out of memory? --workers 1 takes less)"
    assert crashed == [(first, reason), (second, reason)]
    assert epochs[:2] == [1, 2]


@pytest.fixture
def _workers_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers as a command does: the environment of a copy is not seen from outside, and it has imported."""
    monkeypatch.setattr(child, "CONTEXT", get_context("spawn"))


@pytest.mark.processes
@pytest.mark.usefixtures("_workers_begin_anew")
def test_every_worker_sees_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU: what a worker is started with is looked at, and it is killed before it trains."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def seen(worker: local._Worker) -> str:
        until = time.monotonic() + 30  # a process that was just forked still shows the environment of this one
        while time.monotonic() < until:
            found = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
            for one in found:
                if one.startswith(b"CUDA_VISIBLE_DEVICES="):
                    return one.decode().partition("=")[2]
            time.sleep(0.001)
        return "all"

    jobs = [make_job(tmp_path / name, {"vanilla": make_config()}, device="cuda") for name in ("a", "b", "c")]
    engine = LocalEngine(workers=2)
    try:
        for job in jobs:
            engine.submit(job)
        first, second = engine._workers
        assert [seen(first), seen(second)] == ["0", "1"]
        first.process.kill()
        assert next(engine.events())[0] is jobs[0]  # it died
        engine._dispatch()
        assert [seen(worker) for worker in engine._workers] == ["1", "0"]
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    finally:
        for worker in engine._workers:
            worker.process.kill()
        engine.close()


@pytest.mark.processes
@pytest.mark.usefixtures("_workers_begin_anew")
def test_a_worker_that_has_nothing_to_save_yet_is_ended_at_once(tmp_path: Path) -> None:
    """It imports for seconds before it hears of anything."""
    job = make_job(tmp_path, {"vanilla": make_config()})
    engine = LocalEngine(workers=1, should_stop=lambda: True)
    try:
        engine.submit(job)
        assert list(engine.events()) == [(job, CohortEnded())]
    finally:
        engine.close()
    assert not job.lanes[0].checkpoint.exists()


def test_validation_is_measured_only_when_there_is_a_split(tmp_path: Path, digits: DataSet) -> None:
    data = make_config().data.model_copy(update={"val_fraction": 0.1})
    events = run(make_job(tmp_path, {"a": make_config(data=data)}), digits)
    rows = next(event.history for event in events if isinstance(event, LaneFinished))
    assert all("val/top1" in row for row in rows)
    events = run(make_job(tmp_path / "b", {"b": make_config()}), digits)
    rows = next(event.history for event in events if isinstance(event, LaneFinished))
    assert not any("val/top1" in row for row in rows)


@dataclass(frozen=True)
class Unseen:
    """A test set of which nobody may look at an image."""

    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, order: list[Tensor], device: torch.device) -> None:
        raise AssertionError("the test set was looked at")


def test_a_tuning_run_never_looks_at_the_test_set(
    four: CohortJob, tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    data = make_config().data.model_copy(update={"val_fraction": 0.1})
    tuning, usual = configs("vanilla", "kd", data=data, tuning=True), configs("vanilla", "kd", data=data)
    job = make_job(tmp_path / "tuning", tuning, teacher_file)
    hidden = replace(digits, test=Unseen(digits.test.targets))  # type: ignore[arg-type]
    finished = {e.signature: e for e in run(job, hidden) if isinstance(e, LaneFinished)}
    beside = make_job(tmp_path / "usual", usual, teacher_file)
    expected = {e.signature: e.history for e in run(beside, digits) if isinstance(e, LaneFinished)}
    for name, event in finished.items():
        shown = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in event.history]
        assert shown == [{k: row[k] for k in row if not k.startswith(("time/", "test/"))} for row in expected[name]]
        assert "val/top1" in shown[0]
        assert results.selections(event.history) == {"final/val": event.history[-1]["val/top1"]}
        counts = torch.bincount(digits.train.targets[loop.splits(digits, data).val])
        right = (torch.tensor(event.per_class) / 100 * counts).sum() / counts.sum()
        assert 100 * float(right) == pytest.approx(event.history[-1]["val/top1"], abs=1e-4)
        assert_equal(weights(job, name), weights(beside, name))
    again = [e for e in run(job, hidden) if isinstance(e, LaneFinished)]  # its last checkpoint is there
    assert [e.per_class for e in again] == [finished[e.signature].per_class for e in again]


@pytest.mark.parametrize(
    ("moment", "epochs"),
    [(lambda e: isinstance(e, EpochDone), 1), (lambda e: isinstance(e, StepsDone) and (e.epoch, e.step) == (2, 1), 1),
     (lambda e: isinstance(e, Started), 0)],
    ids=["between epochs", "within an epoch", "at once"],
)  # fmt: skip
def test_a_dropped_lane_leaves_no_trace_in_the_others(
    moment: Callable[[Event], bool],
    epochs: int,
    four: CohortJob,
    tmp_path: Path,
    teacher_file: TeacherFile,
    digits: DataSet,
    monkeypatch: pytest.MonkeyPatch,
    every_step_is_saved: None,
) -> None:
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", 0.0)
    job = make_job(tmp_path, configs(*FOUR), teacher_file)
    unwanted: set[str] = {"someone else"}
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if moment(event) and "kd" not in unwanted:
            assert job.lanes[1].checkpoint.exists() == (epochs > 0)
            unwanted.add("kd")

    loop.train_cohort(job, report, data=digits, unwanted=unwanted)
    (dropped,) = (e for e in events if isinstance(e, LaneDropped))
    assert (dropped.signature, [row["epoch"] for row in dropped.history]) == ("kd", [1.0][:epochs])
    # until they are tracked its rows are on disk
    saved = checkpoint.load(job.lanes[1].checkpoint)["history"] if epochs else []
    assert saved == dropped.history
    assert not job.lanes[1].weights.exists()
    assert [list(e.rows) for e in events if isinstance(e, EpochDone)][-1] == ["vanilla", "sdd_dkd", "sdd_mlkd"]
    assert not [e for e in events if isinstance(e, LaneFailed)]
    for method in ("vanilla", "sdd_dkd", "sdd_mlkd"):
        assert_equal(weights(job, method), weights(four, method))


def test_a_worker_that_trains_hears_stop_drop_exit_and_that_its_parent_is_gone() -> None:
    ours, theirs = Pipe()
    inbox = local._Inbox(theirs)
    assert not inbox.must_stop()
    ours.send(local._Drop("a"))
    assert not inbox.must_stop()
    assert (inbox.unwanted, inbox.is_exiting) == ({"a"}, False)
    ours.send(local._STOP)
    ours.send(local._Drop("b"))
    assert inbox.must_stop()
    assert inbox.must_stop()
    assert (inbox.unwanted, inbox.is_exiting) == ({"a", "b"}, False)
    for end in (lambda: ours.send(local._EXIT), ours.close):
        inbox = local._Inbox(theirs)
        end()
        assert inbox.must_stop()
        assert inbox.is_exiting


def wait_for_cohorts(channel: Connection, other_end: Connection) -> None:
    """Be a worker, whose copy of the parent's end is closed."""
    other_end.close()
    local._work(channel)


@pytest.mark.processes
def test_a_worker_that_waits_ends_quietly_when_its_parent_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = pipe()
    process = start(wait_for_cohorts, theirs, ours)
    theirs.close()
    ours.close()
    assert exit_code(process) == 0
    assert capfd.readouterr().err == ""


class _Left(Ranks):
    """A rank whose others end within an epoch."""

    @property
    def are_several(self) -> bool:
        return True

    def agreed(self, ask: Callable[[], Any]) -> Any:
        return ask()

    def average(self, parameters: object, statistics: object, num_images: int) -> None:
        """Average with nobody."""

    def total(self, x: Tensor) -> Tensor:
        raise LostContact("the other rank has ended")


def test_a_rank_that_ends_at_the_end_of_an_epoch_fails_no_run(tmp_path: Path, digits: DataSet) -> None:
    job = make_job(tmp_path, {"vanilla": make_config(data=Data(name="digits", num_train=32, num_test=32))})
    events: list[Event] = []
    with pytest.raises(LostContact):
        loop.train_cohort(job, events.append, data=digits, ranks=_Left())
    assert [type(event) for event in events] == [Started]
