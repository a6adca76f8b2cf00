"""Seconds per image of networks, teachers and methods on this device, measured in a few steps of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import machine
from benchmark.config import Precision, RunConfig
from benchmark.datasets.base import DataSet
from benchmark.train.heads import network_outputs, requests_of
from benchmark.train.lane import create_modules, create_network
from benchmark.train.teacher import BatchTeacher
from distillers.base import Extras, Facts

#: steps that are timed after a warm-up step; one where that takes long, as a second would tell little
_STEPS, _LONG_STEP_S = 2, 0.5


@dataclass(frozen=True)
class Speed:
    """Seconds per image on this device, with one worker."""

    #: forward, to be tested
    forward_s: float
    #: forward, backward and optimiser step
    train_s: float


NOTHING = Speed(0.0, 0.0)


def of_network(
    model: str, data: DataSet, count: int, device: torch.device, threads: int, precision: Precision
) -> Speed:
    """Measure a network that is trained with cross-entropy on batches of `count`."""
    with _as_a_worker(device, threads):
        network = create_network(model, data.num_classes, data.image_size, seed=0)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameters: list[Tensor] = list(network.parameters())
        take_step = _sgd(parameters)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        x_BCHW = _images(data, count, device)
        target_B = torch.zeros(count, dtype=torch.int64, device=device)

        def train() -> None:
            with autocast:
                loss: Tensor = F.cross_entropy(network(x_BCHW), target_B)
            take_step(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))

        def forward() -> None:
            with torch.no_grad(), autocast:
                network(x_BCHW)

        train_s = _time(train, device)
        network.eval()
        return Speed(_time(forward, device) / count, train_s / count)


def of_teacher(config: RunConfig, data: DataSet, count: int, device: torch.device, threads: int) -> float:
    """Measure a run's teacher on batches of `count`, as a cohort runs it."""
    assert config.teacher is not None
    with _as_a_worker(device, threads):
        network = create_network(config.teacher, data.num_classes, data.image_size, seed=0)
        teacher = BatchTeacher(network, [], device, config.teacher_precision, data.image_size)
        x_BCHW = _images(data, count, device)

        def forward() -> None:
            teacher.logits(x_BCHW)

        return _time(forward, device) / count


def of_method(config: RunConfig, data: DataSet, count: int, device: torch.device, threads: int) -> Speed:
    """Measure what a method adds to a step of its student, and to testing it, on batches of `count`.

    A step: its loss on outputs of both networks that are made once, backward to the student's outputs and to the side
    modules, and the training of those. Testing: the side modules, where they take part.

    Raises:
        UnfitPair: when the method cannot run on the networks.
    """
    assert config.teacher is not None
    with _as_a_worker(device, threads):
        distiller, (request, *_) = config.distiller(), requests_of(config.distiller())
        student, teacher = (
            create_network(name, data.num_classes, data.image_size, seed=0) for name in (config.student, config.teacher)
        )
        facts = Facts(data.num_classes, data.image_size, data.train.targets, count)
        modules = create_modules(distiller, student, teacher.eval(), facts, seed=0)
        if modules is not None:
            modules = modules.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x_BCHW, numbers_B = _images(data, count, device), torch.arange(count, device=device)
        with torch.no_grad():
            for network in (student, teacher):
                network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            seen, shown = (network_outputs(network, x_BCHW, [request])[request] for network in (student, teacher))
        parameters: list[Tensor] = [] if modules is None else [one for one in modules.parameters() if one.requires_grad]
        outputs: list[Tensor] = []
        seen.map_all(lambda x: outputs.append(x.requires_grad_()) or x)  # type: ignore[func-returns-value]
        s, t = dict.fromkeys(distiller.views, seen), dict.fromkeys(distiller.views, shown)
        take_step = _sgd(parameters)

        def train() -> None:
            losses = distiller.losses(
                s, t, numbers_B % data.num_classes, 1, Extras(modules, numbers_B % len(data.train))
            )
            total = torch.stack(list(losses.values())).sum()
            gradients = torch.autograd.grad(total, [*parameters, *outputs], allow_unused=True, materialize_grads=True)
            take_step(gradients[: len(parameters)])

        @torch.no_grad()
        def forward() -> None:
            distiller.tested_logits(seen, Extras(modules))

        train_s = _time(train, device)
        if not distiller.is_tested_with_modules or modules is None:
            return Speed(0.0, train_s / count)
        modules.eval()
        return Speed(_time(forward, device) / count, train_s / count)


def _images(data: DataSet, count: int, device: torch.device) -> Tensor:
    x_BCHW = torch.rand(count, 3, data.image_size, data.image_size, device=device)
    return x_BCHW.to(memory_format=torch.channels_last)


def _sgd(parameters: list[Tensor]) -> Callable[[tuple[Tensor, ...]], None]:
    """Make a step of SGD by hand: the first optimizer of a process imports torch's compiler, which takes seconds."""
    momenta = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def take_step(gradients: tuple[Tensor, ...]) -> None:
        if parameters:
            torch._foreach_mul_(momenta, 0.9)
            torch._foreach_add_(momenta, gradients)
            torch._foreach_add_(parameters, momenta, alpha=-1e-3)

    return take_step


@contextlib.contextmanager
def _as_a_worker(device: torch.device, threads: int) -> Iterator[None]:
    """Measure with the settings of a worker, and release the memory to the workers."""
    before = torch.get_num_threads()
    machine.set_numerics(device, threads)
    machine.keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        machine.release_freed_memory()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _time(step: Callable[[], None], device: torch.device) -> float:
    """Measure the seconds of one step: the fastest of a few short ones, or one long one, after a warm-up step."""

    def run() -> float:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    is_long = run() > _LONG_STEP_S
    return min(run() for _ in range(1 if is_long else _STEPS))
