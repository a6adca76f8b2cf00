"""What trains on a GPU, on a fake one: no method, teacher or network reads from the device, or mixes devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import _disable_current_modes

import distillers
import models
from benchmark.config import Recipe, RunConfig
from benchmark.datasets import views
from benchmark.datasets.base import DataSet
from benchmark.train import cuda_graphs, step
from benchmark.train.batches import Drawn, TrainStream
from benchmark.train.evaluate import _Sums
from benchmark.train.heads import Request
from benchmark.train.lane import Lane
from benchmark.train.step import CohortStep, named, unnamed
from benchmark.train.teacher import BatchTeacher
from distillers.base import Convention, LogitDistiller, Parameters, Views, register
from distillers.regions import Weights
from models.base import Stages
from tests.conftest import make_config
from tests.fake_gpu import CUDA, FakeGpu, WaitsForTheDevice, fake_gpu

BATCH, CLASSES, SIDE = 8, 10, 16


class Cohort:
    """Lanes on the fake GPU with their batches and their teacher, as the loop puts them together."""

    def __init__(
        self,
        gpu: FakeGpu,
        digits: DataSet,
        configs: Sequence[RunConfig],
        precision: Any = "fp32",
        cache: Any = "none",
        fail: Callable[[Lane, Exception], object] | None = None,
    ) -> None:
        self.gpu = gpu
        with gpu.making_constants():
            with _disable_current_modes():
                network, targets_N = models.create("resnet8", CLASSES, SIDE), torch.arange(100) % CLASSES
            self.lanes = [Lane(config, CLASSES, SIDE, CUDA, network, targets_N) for config in configs]
            requests = [request for lane in self.lanes for request in lane.requests]
            self.names = sorted({request.view for request in requests}, reverse=True)
            images: Any = SimpleNamespace(targets=torch.zeros(100, dtype=torch.int64, device=CUDA))
            self.stream = TrainStream(
                digits, images, torch.zeros(100, dtype=torch.int64), Recipe(batch_size=BATCH), 1, self.names, CUDA
            )
            self.teacher = gpu.teacher(lambda: teacher_of(requests, precision, cache))
            for lane in self.lanes:
                lane.start_epoch(1)
        self.step = CohortStep(self.lanes, self.prepared, CUDA, fail or raised, pytest.fail)

    def prepared(self, inputs: Mapping[str, Tensor]) -> Any:
        drawn, cells = unnamed(inputs)
        batch = self.stream.batch(drawn)
        return batch, self.teacher.outputs(batch.views, cells)

    def inputs(self, size: int = BATCH, with_cells: bool = False) -> dict[str, Tensor]:
        """A batch as it is drawn: crops of the views that change nothing else, made images of the others."""
        plain = [name for name in self.names if is_plain(name)]
        crops = {name: torch.zeros(3, size, dtype=torch.int64, device=CUDA) for name in plain}
        made = {name: pixels(size) for name in self.names if name not in plain}
        numbers = torch.zeros(size, dtype=torch.int64, device=CUDA)
        drawn = Drawn(pixels(size), crops, made, numbers, numbers)
        cells = [
            torch.zeros(size, layout.num_cells, CLASSES, dtype=torch.float16, device=CUDA)
            for layout in self.teacher.layouts
        ]
        return named(drawn, cells if with_cells else ())

    def train(self, steps: int = 2, **inputs: Any) -> None:
        """Take steps; the first one may make constants on the device."""
        with self.gpu.making_constants():
            self.step(self.inputs(**inputs))
        for _ in range(steps - 1):
            self.step(self.inputs(**inputs))


def pixels(size: int) -> Tensor:
    return torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8, device=CUDA)


def is_plain(view: str) -> bool:
    """Whether a view is crop and flip only, which the step itself does."""
    with _disable_current_modes():
        return views.registry.get(view)(1, SIDE, 0, 1) is None


def teacher_of(requests: Sequence[Request], precision: Any = "fp32", cache: Any = "none") -> BatchTeacher:
    network = models.create("resnet8", CLASSES, SIDE)
    return BatchTeacher(network, requests, torch.device("cpu"), precision, SIDE, cache)


def raised(lane: Lane, error: Exception) -> None:
    raise error


@pytest.fixture(autouse=True)
def every_step_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "capture_for", lambda device: None)


def cases() -> dict[str, tuple[str, dict[str, dict[str, Any]]]]:
    """Every method with the hyperparameters of every convention in which it is other code, and SDD's controls.

    Numbers are no other code, and the convention of scale decoupling itself is the same code around every method: of
    those that differ by nothing else, SD-KD stands for all.
    """
    made: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {}
    for method in distillers.names():
        codes = []
        for convention in get_args(Convention):
            groups = distillers.create(method, convention=convention).parameters()
            own = {name: fields for name, fields in groups.items() if name != "sdd" or method == "sdd_kd"}
            code = {key: value for fields in own.values() for key, value in fields.items() if not is_number(value)}
            if code not in codes:
                codes.append(code)
                made[f"{method}, {convention}"] = method, groups
    for weights in get_args(Weights)[1:]:
        made[f"sdd_kd, weights {weights}"] = "sdd_kd", {"sdd": {"weights": weights}}
    return made


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


CASES = cases()


class Plain3(models.Network):
    """A student of three convolutions: the methods are what is looked at."""

    min_image_size = 4

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(into, out, 3, stride=1 + (into > 3), padding=1, bias=False)
            for into, out in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        return self.forward_stages(x_BCHW).maps[-1]

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        x, pre_activations = x_BCHW, []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pre_activations.append(norm(convolution(x)))
            x = pre_activations[-1].relu()
        return Stages(tuple(one.relu() for one in pre_activations), tuple(pre_activations), x)

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(norm for norm in self.norms if isinstance(norm, nn.BatchNorm2d))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled_D)
        return logits


@pytest.fixture
def plain3() -> Iterator[str]:
    models.registry.add("plain3", Plain3)
    yield "plain3"
    models.registry.remove("plain3")


def test_a_step_of_a_method_reads_nothing_and_stays_on_the_device(digits: DataSet, plain3: str) -> None:
    """All in one cohort: what is wrong with a method does not keep the others from their steps."""
    failed: dict[str, Exception] = {}
    configs = [
        make_config(method, student=plain3, parameters=parameters, recipe={"batch_size": BATCH})
        for method, parameters in CASES.values()
    ]
    with fake_gpu() as gpu:
        cohort = Cohort(gpu, digits, configs, fail=lambda lane, error: failed.setdefault(names[id(lane)], error))
        names = {id(lane): name for name, lane in zip(CASES, cohort.lanes, strict=True)}
        cohort.train()
        assert not failed
        for lane in cohort.lanes:
            assert lane._sums.values is not None
            tensors = (lane._sums.values, lane._sums.bad_step, *lane._parameters)
            assert {tensor.device for tensor in tensors} == {CUDA}, names[id(lane)]
            assert all(parameter.grad is not None for parameter in lane._parameters), names[id(lane)]


def test_in_bf16_too(digits: DataSet) -> None:
    with fake_gpu() as gpu:
        cohort = Cohort(gpu, digits, [make_config("sdd_mlkd", precision="bf16")], precision="bf16")
        seen: list[torch.dtype] = []
        for module in cohort.lanes[0].network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        cohort.train()
        assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize(("precision", "with_cells"), [("fp32", True), ("bf16", False)])
def test_a_teacher_with_stored_cells_and_without(precision: str, with_cells: bool, digits: DataSet) -> None:
    """One that stores the weak view: for lanes of every kind of request, beside one without a teacher."""
    methods = ("vanilla", "sdd_kd", "mlkd")
    with fake_gpu() as gpu:
        cohort = Cohort(gpu, digits, [make_config(one) for one in methods], precision, "fp16")
        assert cohort.teacher.layouts
        cohort.train(with_cells=with_cells)


def test_captured_steps_copy_into_buffers_of_their_own(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture is a stand-in that launches the same work: once as a graph is captured, then at every replay."""
    captures: list[int] = []

    def capture(launch: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)
        launch()
        return launch

    monkeypatch.setattr(step, "capture_for", lambda device: capture)
    monkeypatch.setattr(cuda_graphs, "EAGER_STEPS", 1)
    with fake_gpu() as gpu:
        cohort = Cohort(gpu, digits, [make_config(one) for one in ("vanilla", "sdd_mlkd")], cache="fp16")
        cohort.train(3, with_cells=True)
        assert captures == [1]
        (buffers,) = (held for held, _ in cohort.step._replayed._graphs.values())  # type: ignore[union-attr]
        assert set(buffers) == {"pixels", "target", "index", "crops/weak", "made/strong", "cells/0"}
        assert {tensor.device for tensor in buffers.values()} == {CUDA}
        of_host = {name: torch.zeros(one.shape, dtype=one.dtype) for name, one in buffers.items()}
        with pytest.raises(WaitsForTheDevice, match="tensors of two devices"):
            cohort.step(of_host)


def test_evaluation_keeps_its_sums_on_the_device(digits: DataSet) -> None:
    with fake_gpu() as gpu:
        with gpu.making_constants():
            sums = _Sums(CLASSES, CUDA)
        logits_BK = torch.zeros(BATCH, CLASSES, device=CUDA)
        for _ in range(2):
            sums.add(logits_BK, torch.zeros(BATCH, dtype=torch.int64, device=CUDA), logits_BK)


#: one network of every file of `models`
FAMILIES = {models.registry.get(name).__module__: name for name in sorted(models.names(), key=len, reverse=True)}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_a_network_is_trained_without_a_look_at_its_values(name: str) -> None:
    network = models.create(name, CLASSES, 32)
    with fake_gpu() as gpu:
        gpu.network(network)
        x_BCHW = torch.zeros(2, 3, 32, 32, device=CUDA).to(memory_format=torch.channels_last)
        network.classify(network.forward_features(x_BCHW).mean(dim=(2, 3))).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.device == CUDA for parameter in network.parameters())


CONSTANT = torch.tensor([2.0])
WEIGHT = torch.tensor(2.0)


def item(x_BK: Tensor) -> Tensor:
    return x_BK * x_BK.mean().item()


def truth(x_BK: Tensor) -> Tensor:
    return x_BK if x_BK.mean() > 0 else -x_BK


def listed(x_BK: Tensor) -> Tensor:
    return x_BK * x_BK[0].tolist()[0]


def to_the_host(x_BK: Tensor) -> Tensor:
    return x_BK * x_BK.detach().cpu().to(x_BK.device)


def copied_to_the_host(x_BK: Tensor) -> Tensor:
    torch.zeros(x_BK.shape).copy_(x_BK.detach())
    return x_BK


def of_another_device(x_BK: Tensor) -> Tensor:
    return x_BK * torch.ones(1)


def scalar_of_another_device(x_BK: Tensor) -> Tensor:
    return x_BK * torch.tensor(2.0)


def indexed_from_the_host(x_BK: Tensor) -> Tensor:
    return x_BK[torch.arange(2)]


def of_the_module(x_BK: Tensor) -> Tensor:
    return x_BK * CONSTANT


def scalar_of_the_module(x_BK: Tensor) -> Tensor:
    return x_BK * WEIGHT


def made_in_every_step(x_BK: Tensor) -> Tensor:
    return x_BK * torch.tensor([2.0], device=x_BK.device)


def masked(x_BK: Tensor) -> Tensor:
    return x_BK[x_BK > 0]


def nonzero(x_BK: Tensor) -> Tensor:
    return x_BK.flatten()[(x_BK > 0).flatten().nonzero()[:, 0]]


FAULTS: dict[Callable[[Tensor], Tensor], tuple[type[Exception], str]] = {
    item: (DataDependentOutputException, "_local_scalar_dense"),
    truth: (DataDependentOutputException, "_local_scalar_dense"),
    listed: (DataDependentOutputException, "_local_scalar_dense"),
    to_the_host: (WaitsForTheDevice, "from the device to the host"),
    copied_to_the_host: (WaitsForTheDevice, "tensors of two devices"),
    of_another_device: (RuntimeError, "at least two devices, cuda:0 and cpu"),
    scalar_of_another_device: (WaitsForTheDevice, "tensors of two devices"),
    indexed_from_the_host: (WaitsForTheDevice, "tensors of two devices"),
    of_the_module: (Exception, "convert all Tensors to FakeTensors"),
    scalar_of_the_module: (Exception, "convert all Tensors to FakeTensors"),
    made_in_every_step: (WaitsForTheDevice, "make the constant once"),
    masked: (DynamicOutputShapeException, "nonzero"),
    nonzero: (DynamicOutputShapeException, "nonzero"),
}


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def faulty(request: pytest.FixtureRequest) -> Iterator[tuple[type[Exception], str]]:
    """A method `faulty`, whose loss does what no step may do."""
    fault = request.param

    class Faulty(LogitDistiller):
        """A loss that is wrong on a GPU, and right on a CPU."""

        name, title = "faulty", "Faulty"
        groups: ClassVar[Mapping[str, type[Parameters]]] = {"faulty": Parameters}

        def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
            return {"kd": fault(student["weak"].logits).sum()}

    register(Faulty)
    yield FAULTS[fault]
    distillers.registry.remove("faulty")


def test_what_no_step_may_do_is_caught(faulty: tuple[type[Exception], str], digits: DataSet) -> None:
    kind, message = faulty
    with fake_gpu() as gpu:
        cohort = Cohort(gpu, digits, [make_config("faulty")])
        with pytest.raises(kind, match=message):
            cohort.train()


def test_a_teacher_that_reads_is_caught(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = BatchTeacher.outputs

    def reading(self: BatchTeacher, *arguments: Any) -> Any:
        found = outputs(self, *arguments)
        if self.device == CUDA:
            next(iter(found.values())).logits.mean().item()
        return found

    monkeypatch.setattr(BatchTeacher, "outputs", reading)
    with fake_gpu() as gpu, pytest.raises(DataDependentOutputException):
        Cohort(gpu, digits, [make_config("kd")]).train()


def test_a_fake_gpu_leaves_nothing_behind(digits: DataSet) -> None:
    """Constants that a method keeps between steps are real again."""
    before = torch.optim.SGD
    with fake_gpu() as gpu:
        Cohort(gpu, digits, [make_config("sdd_kd")]).train()
    assert torch.optim.SGD is before
    lane = Lane(make_config("sdd_kd"), CLASSES, SIDE, torch.device("cpu"))
    lane.start_epoch(1)
    batch = {"weak": torch.zeros(2, 3, SIDE, SIDE)}
    shown = teacher_of(lane.requests).outputs(batch)
    lane.step(batch, torch.zeros(2, dtype=torch.int64), shown)
    lane.finish_epoch(1)
    assert lane.history[0]["train/loss_kd"] > 0
