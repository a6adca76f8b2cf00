"""Every path on a GPU against its twin on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import distillers
from benchmark.config import Recipe
from benchmark.datasets.base import DataSet
from benchmark.train import loop, teacher_store
from benchmark.train.batches import TrainStream, eval_batches, on_device
from benchmark.train.evaluate import evaluate
from benchmark.train.heads import STORED_SCALES, Request
from benchmark.train.lane import create_network
from benchmark.train.messages import Event, LaneFinished, Note, TeacherFile
from benchmark.train.ranks import ALONE
from benchmark.train.step import named
from benchmark.train.teacher import BatchTeacher
from benchmark.train.view_cache import CachedTeacher, open_caches
from distillers import Outputs
from tests.conftest import make_config, make_job

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHODS = ("vanilla", "kd", "dkd", "nkd", "mlkd", "sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_mlkd")
REQUESTS = [Request("weak", STORED_SCALES, "from_4x4"), Request("weak", (), "map")]


@pytest.fixture(autouse=True)
def _full_fp32() -> Iterator[None]:
    from benchmark.machine import set_numerics

    set_numerics(CUDA, 1)
    yield
    torch.cuda.set_sync_debug_mode("default")


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.cpu().double() - theirs.double()).norm() / theirs.double().norm())


def test_batches_are_the_same_pixels(digits: DataSet) -> None:
    def stream(device: torch.device) -> TrainStream:
        images, members = on_device(digits.train, device), torch.arange(100)
        return TrainStream(digits, images, members, Recipe(batch_size=32), 3, ("weak", "strong"), device)

    for ours, theirs in zip(stream(CUDA).epoch(2), stream(CPU).epoch(2), strict=True):
        assert torch.equal(ours.target_B.cpu(), theirs.target_B)
        for view in ("weak", "strong"):
            torch.testing.assert_close(ours.views[view].cpu(), theirs.views[view], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_are_the_same(method: str) -> None:
    torch.manual_seed(0)
    distiller = distillers.create(method)
    regions = sum(side**2 for side in distiller.scales)
    shape = (16, 1 + regions, 100)
    drawn = {view: (4 * torch.randn(shape), 4 * torch.randn(shape)) for view in distiller.views}
    target_B = torch.randint(100, (16,))

    def both(device: torch.device, epoch: int | Tensor) -> tuple[float, list[Tensor]]:
        leaves = {view: student.to(device).requires_grad_() for view, (student, _) in drawn.items()}
        student = {view: Outputs(leaf[:, 0], leaf[:, 1:]) for view, leaf in leaves.items()}
        shown = {view: Outputs(t.to(device)[:, 0], t.to(device)[:, 1:]) for view, (_, t) in drawn.items()}
        losses = distiller.losses(student, shown, target_B.to(device), epoch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach()), [leaf.grad for leaf in leaves.values() if leaf.grad is not None]

    ours, our_gradients = both(CUDA, torch.tensor(7.0, device=CUDA))
    theirs, their_gradients = both(CPU, 7)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert relative(one, other) < 1e-5


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_the_teacher_says_the_same(
    precision: str, tolerance: float, digits: DataSet, teacher_file: TeacherFile
) -> None:
    x_BCHW = torch.randn(32, 3, 16, 16)
    network = teacher_store.load_network(teacher_file, digits)
    plain = BatchTeacher(network, REQUESTS, CPU, "fp32", 16)
    ours = BatchTeacher(network, REQUESTS, CUDA, precision, 16)  # type: ignore[arg-type]
    theirs = plain.outputs({"weak": x_BCHW})
    for request, outputs in ours.outputs({"weak": x_BCHW.to(CUDA)}).items():
        assert relative(outputs.logits, theirs[request].logits) < tolerance
        if request.scales:
            assert relative(outputs.regions, theirs[request].regions) < tolerance


def test_the_view_cache_holds_the_same(digits: DataSet, teacher_file: TeacherFile, tmp_path: Path) -> None:
    def cached(device: torch.device) -> CachedTeacher:
        network = teacher_store.load_network(teacher_file, digits)
        teacher = BatchTeacher(network, REQUESTS, device, "fp32", 16, "fp16")
        return open_caches(teacher, teacher_file, digits, 100, tmp_path / device.type, None, print)

    rows = np.arange(40, 1000, 7)
    for _ in range(2):  # computed, then read
        for ours, theirs in zip(cached(CUDA).rows(rows), cached(CPU).rows(rows), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    members = torch.arange(100)
    stream = TrainStream(digits, digits.train, members, Recipe(batch_size=32), 3, ("weak",), CUDA)
    steps = list(cached(CUDA).epoch(stream, 1))
    assert [len(cells) for (cells,) in steps] == [32, 32, 32, 4]
    assert all(cells.is_cuda for (cells,) in steps)


def test_evaluation_is_the_same(digits: DataSet) -> None:
    network = create_network("resnet8_half", 10, 16, seed=1).eval()
    members = torch.arange(300)
    found = []
    for device in (CPU, CUDA):
        placed = network.to(device)
        batches = eval_batches(digits, on_device(digits.test, device), members, device)
        found.append(evaluate([placed], batches, 10, device)[0])
    assert found[0].top1 == pytest.approx(found[1].top1, abs=0.7)
    assert found[0].ece == pytest.approx(found[1].ece, abs=0.5)


def test_no_step_waits_for_the_device(tmp_path: Path, digits: DataSet, teacher_file: TeacherFile) -> None:
    """Any operation that would is an error here; the first step of an epoch may make constants and move the epoch."""
    job = make_job(tmp_path, {method: make_config(method) for method in METHODS}, teacher_file, device="cuda")
    cohort = loop._Cohort(job, digits, lambda _: None, lambda: False, (), ALONE)
    for one in cohort.running:
        one.lane.start_epoch(1)
    for number, drawn in enumerate(cohort.stream.drawn(1)):
        cohort._step._eager(named(drawn, ()))
        if number == 0:
            torch.cuda.set_sync_debug_mode("error")
    assert len(cohort.running) == len(METHODS)


@pytest.mark.parametrize("cache", ["none", "fp16"])
def test_a_cohort_learns_the_same(cache: str, tmp_path: Path, digits: DataSet, teacher_file: TeacherFile) -> None:
    """One epoch: rounding has not grown yet."""

    def histories(device: str) -> dict[str, list[dict[str, float]]]:
        data = make_config().data.model_copy(update={"num_train": 240})
        changes = {"data": data, "teacher_cache": cache, "recipe": {"epochs": 1, "lr": 0.01}}
        configs = {method: make_config(method, **changes) for method in METHODS}
        events: list[Event] = []
        loop.train_cohort(make_job(tmp_path / device, configs, teacher_file, device=device), events.append, data=digits)
        assert [event.text for event in events if isinstance(event, Note)] == []
        return {event.signature: event.history for event in events if isinstance(event, LaneFinished)}

    ours, theirs = histories("cuda"), histories("cpu")
    assert ours.keys() == theirs.keys() == set(METHODS)
    for method in METHODS:
        for name in theirs[method][0]:
            if name.startswith("train/loss"):
                assert ours[method][0][name] == pytest.approx(theirs[method][0][name], rel=1e-2), (method, name)
