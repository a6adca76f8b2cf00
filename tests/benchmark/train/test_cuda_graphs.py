"""Captured steps: what surrounds a graph, on any machine; graphs themselves, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark.config import Data
from benchmark.datasets.base import DataSet
from benchmark.train import loop, step
from benchmark.train.cuda_graphs import EAGER_STEPS, Inputs, ReplayedStep
from benchmark.train.messages import EpochDone, Event, LaneDropped, LaneFailed, LaneFinished, Note, TeacherFile
from tests.conftest import make_config, make_job

Launch = Callable[[], None]


class Recorder:
    """Stands in for a GPU: captures without doing, and counts."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.captures, self.replays = fails, 0, 0

    def __call__(self, launch: Launch) -> Launch:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            launch()

        return replay


def batch(size: int, value: float) -> dict[str, Tensor]:
    return {"x": torch.full((size,), float(value))}


def test_steps_are_eager_then_captured_then_replayed_by_shape() -> None:
    seen: list[tuple[str, int, float]] = []
    capture, notes = Recorder(), []  # type: ignore[var-annotated]

    def step(kind: str) -> Callable[[Inputs], None]:
        return lambda inputs: seen.append((kind, len(inputs["x"]), float(inputs["x"][0])))

    replayed = ReplayedStep(step("eager"), step("captured"), capture, notes.append)
    for number in range(5):
        replayed(batch(4, number))
        replayed(batch(2, -number))
    expected = [
        ("eager" if number < EAGER_STEPS else "captured", size, float(sign * number))
        for number in range(5)
        for size, sign in ((4, 1), (2, -1))
    ]
    assert seen == expected
    assert (capture.captures, capture.replays) == (2, 2 * (5 - EAGER_STEPS))
    assert notes == []


def test_a_graph_reads_copies_not_the_batch() -> None:
    """What is handed in may be freed or changed afterwards."""
    read: list[int] = []
    replayed = ReplayedStep(lambda _: None, lambda inputs: read.append(inputs["x"].data_ptr()), Recorder(), print)
    handed = [batch(4, number) for number in range(EAGER_STEPS + 3)]
    for inputs in handed:
        replayed(inputs)
    assert len(read) == 3
    assert len(set(read)) == 1
    assert read[0] not in {inputs["x"].data_ptr() for inputs in handed}


def test_when_capture_fails_every_step_is_eager_and_the_reason_is_said_once() -> None:
    taken: list[float] = []
    notes: list[str] = []
    replayed = ReplayedStep(
        lambda inputs: taken.append(float(inputs["x"][0])), lambda _: None, Recorder(fails=True), notes.append
    )
    for number in range(EAGER_STEPS + 4):
        replayed(batch(4, number))
        replayed(batch(3, number))
    assert taken == [float(number) for number in range(EAGER_STEPS + 4) for _ in range(2)]
    assert notes == [
        "the training step is not captured as a CUDA graph, and runs slower: RuntimeError: operation not permitted"
        " when stream is capturing"
    ]


def test_forgotten_graphs_are_captured_anew() -> None:
    capture = Recorder()
    replayed = ReplayedStep(lambda _: None, lambda _: None, capture, print)
    for number in range(EAGER_STEPS + 1):
        replayed(batch(4, number))
    replayed.forget()
    replayed(batch(4, 9.0))
    assert capture.captures == 2


METHODS = ("vanilla", "kd", "sdd_dkd", "sdd_mlkd")
#: five batches of eight
FEW = Data(name="digits", num_train=40, num_test=20)


def trained(folder: Path, teacher: TeacherFile, data: DataSet) -> dict[str, dict[str, Tensor]]:
    job = make_job(folder, {method: make_config(method) for method in METHODS}, teacher)
    loop.train_cohort(job, lambda _: None, data=data)
    return {lane.signature: load_file(lane.weights) for lane in job.lanes}


def test_a_replayed_cohort_is_bit_equal_to_the_plain_loop(
    tmp_path: Path, teacher_file: TeacherFile, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(tmp_path / "plain", teacher_file, digits)
    capture = Recorder()
    monkeypatch.setattr(step, "capture_for", lambda _: capture)
    replayed = trained(tmp_path / "replayed", teacher_file, digits)
    # two epochs of two full batches and one of 16: the full ones are captured, the small one is seen twice only
    assert (capture.captures, capture.replays) == (1, 1)
    for method in METHODS:
        assert all(torch.equal(value, plain[method][name]) for name, value in replayed[method].items())


def test_a_network_with_dropout_is_trained_eagerly_and_says_so(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "capture_for", lambda _: _launching)
    config = make_config(student="torchvision/mobilenet_v2", data=FEW, recipe={"epochs": 1, "batch_size": 8})
    events: list[Event] = []
    loop.train_cohort(make_job(tmp_path, {"a": config}), events.append, data=digits)
    assert [e.text.split(": ")[1:] for e in events if isinstance(e, Note)] == [
        ["RuntimeError", "torchvision/mobilenet_v2 draws random numbers (dropout) from a stream of its own"]
    ]
    assert isinstance(events[-1], LaneFinished)


def _launching(launch: Launch) -> Launch:
    launch()  # as a capture does, recording instead of computing
    return launch


def test_a_lane_that_leaves_takes_its_graph_along(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Recorder()
    monkeypatch.setattr(step, "capture_for", lambda _: capture)
    recipe = {"batch_size": 8}
    bad, good = (
        make_config(recipe={"lr": 1e30, "clip_norm": None, **recipe}, data=FEW),
        make_config(recipe=recipe, data=FEW),
    )
    events: list[Event] = []
    loop.train_cohort(make_job(tmp_path, {"bad": bad, "good": good}), events.append, data=digits)
    assert [e.signature for e in events if isinstance(e, LaneFailed)] == ["bad"]
    assert [e.signature for e in events if isinstance(e, LaneFinished)] == ["good"]
    assert capture.captures == 2


def test_a_dropped_lane_takes_its_graph_along_and_the_others_are_as_without_it(
    tmp_path: Path, teacher_file: TeacherFile, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"epochs": 3, "batch_size": 8}
    configs = {method: make_config(method, data=FEW, recipe=recipe) for method in METHODS}

    def run(name: str, *methods: str) -> tuple[list[Event], dict[str, dict[str, Tensor]]]:
        job = make_job(tmp_path / name, {method: configs[method] for method in methods}, teacher_file)
        events: list[Event] = []
        unwanted: set[str] = set()

        def report(event: Event) -> None:
            events.append(event)
            if isinstance(event, EpochDone):
                unwanted.add("kd")

        loop.train_cohort(job, report, data=digits, unwanted=unwanted)
        return events, {lane.signature: load_file(lane.weights) for lane in job.lanes if lane.weights.exists()}

    def rows(events: list[Event]) -> dict[str, list[dict[str, float]]]:
        return {
            event.signature: [{k: v for k, v in row.items() if not k.startswith("time/")} for row in event.history]
            for event in events
            if isinstance(event, LaneFinished)
        }

    alone, expected = run("alone", "vanilla", "sdd_dkd", "sdd_mlkd")
    capture = Recorder()
    monkeypatch.setattr(step, "capture_for", lambda _: capture)
    events, found = run("dropped", *METHODS)
    assert [(e.signature, len(e.history)) for e in events if isinstance(e, LaneDropped)] == [("kd", 1)]
    # the first epoch captures its fourth of five steps; the drop, after the first step of the second, does away with it
    assert (capture.captures, capture.replays) == (2, 2 + 1 + 4 + 5)
    assert rows(events) == rows(alone)
    assert found.keys() == expected.keys()
    for method, weights in found.items():
        assert all(torch.equal(value, expected[method][name]) for name, value in weights.items())


@pytest.mark.gpu
@pytest.mark.parametrize("methods", [("vanilla",), METHODS])
def test_graphs_give_the_numbers_of_the_plain_loop(
    methods: tuple[str, ...],
    tmp_path: Path,
    teacher_file: TeacherFile,
    digits: DataSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three epochs, so that the last, smaller batch has its graph too; the teacher in fp32."""

    def run(name: str) -> tuple[dict[str, list[dict[str, float]]], list[str]]:
        data = make_config().data.model_copy(update={"num_train": 240})
        configs = {method: make_config(method, data=data, recipe={"epochs": 6}) for method in methods}
        job = make_job(tmp_path / name, configs, teacher_file if len(methods) > 1 else None, device="cuda")
        events: list[Event] = []
        loop.train_cohort(job, events.append, data=digits)
        histories = {e.signature: e.history for e in events if isinstance(e, LaneFinished)}
        return histories, [e.text for e in events if isinstance(e, Note)]

    graphed, notes = run("graphed")
    assert notes == []
    monkeypatch.setattr(step, "capture_for", lambda _: None)
    plain, _ = run("plain")
    assert graphed.keys() == plain.keys() == set(methods)
    for method in methods:
        for ours, theirs in zip(graphed[method], plain[method], strict=True):
            for name in ("train/loss_ce", "lr"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-2)
        assert graphed[method][0]["train/loss_ce"] == pytest.approx(plain[method][0]["train/loss_ce"], rel=1e-4)
