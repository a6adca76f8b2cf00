"""Training to measure: random images and labels, random networks, and both loops on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import distillers
from benchmark.config import Data, Precision, Recipe, RunConfig, Storage
from benchmark.datasets.base import Augmentation, DataSet, MemoryImages
from benchmark.perf.base import Setting
from benchmark.perf.measure import Task
from benchmark.perf.reference import Trainer
from benchmark.randomness import generator
from benchmark.train.batches import Batch
from benchmark.train.cuda_graphs import Inputs
from benchmark.train.heads import Request
from benchmark.train.lane import Lane, create_network
from benchmark.train.step import CohortStep
from benchmark.train.teacher import BatchTeacher
from distillers import Outputs
from models import Network

CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
#: the epoch matters only to warm-ups, which scale a loss at no cost: any number will do
EPOCH = 1
#: training images of CIFAR, for methods that remember each of them
NUM_IMAGES = 50_000


class Pair(NamedTuple):
    """A teacher and its student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} → {self.student}"


PAIRS = (
    Pair("resnet32x4", "resnet8x4"),
    Pair("resnet32x4", "shufflenet_v1"),
    Pair("vgg13", "mobilenet_v2"),
)
#: methods of a cohort in the order in which students join it
COHORT: tuple[tuple[str, dict[str, dict[str, Any]]], ...] = (
    ("kd", {}),
    ("sdd_kd", {}),
    ("dkd", {}),
    ("sdd_dkd", {}),
    ("nkd", {}),
    ("sdd_nkd", {}),
    ("sdd_kd", {"sdd": {"beta": 4}}),
    ("sdd_dkd", {"sdd": {"beta": 4}}),
)


def run_config(
    pair: Pair, method: str = "sdd_kd", values: Mapping[str, Mapping[str, Any]] | None = None, **recipe: Any
) -> RunConfig:
    """Configure a student's run: the CIFAR recipe with the released code's clipping at 40."""
    groups: dict[str, Any] = dict(values or {})
    return RunConfig(
        data=Data(name="random"),
        student=pair.student,
        teacher=pair.teacher,
        method=method,
        parameters=distillers.create(method, **groups).parameters(),
        recipe=Recipe(**{"clip_norm": 40.0, **recipe}),
        repetition=1,
    )


def cohort_configs(pair: Pair, students: int) -> list[RunConfig]:
    """Configure the runs of a cohort of up to eight students."""
    return [run_config(pair, method, values) for method, values in COHORT[:students]]


def random_teacher(name: str, num_classes: int, image_size: int) -> Network:
    """Make a teacher with random weights, the same at every call, and batch-norm statistics of random images.

    Without these, activations double with every block of a residual network, unlike in any real network.
    """
    network = create_network(name, num_classes, image_size, seed=0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # statistics of all batches seen
    with torch.no_grad():
        network.train()(torch.randn(16, 3, image_size, image_size, generator=generator("calibration")))
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    return network.eval()


def random_batch(setting: Setting) -> tuple[Tensor, Tensor]:
    """Draw normalised images, (B, 3, S, S) in NCHW order, and targets, (B,), on the device."""
    rng = generator("perf batch")
    x_BCHW = torch.randn(setting.batch_size, 3, setting.image_size, setting.image_size, generator=rng)
    target_B = torch.randint(setting.num_classes, (setting.batch_size,), generator=rng)
    return x_BCHW.to(setting.device), target_B.to(setting.device)


class References:
    """The reference's loop on one batch: every student by itself, with a teacher of its own."""

    def __init__(self, setting: Setting, configs: Sequence[RunConfig]) -> None:
        self.x_BCHW, self.target_B = random_batch(setting)
        self.trainers = []
        teacher = random_teacher(str(configs[0].teacher), setting.num_classes, setting.image_size)
        for config in configs:
            # all share one teacher object: it has no state, and copies would only fill the memory
            self.trainers.append(Trainer(config, teacher, setting.num_classes, setting.image_size, setting.device))

    def step(self) -> None:
        """Train every student for one step, one after the other."""
        for trainer in self.trainers:
            trainer.step(self.x_BCHW, self.target_B, EPOCH)


class Cohort:
    """Our loop on one batch: one teacher pass, then every lane; on a GPU captured and replayed, as in training."""

    def __init__(
        self,
        setting: Setting,
        configs: Sequence[RunConfig],
        teacher_precision: Precision = "fp32",
        storage: Storage = "none",
    ) -> None:
        x_BCHW, target_B = random_batch(setting)
        index_B = torch.arange(len(target_B), device=setting.device)
        self.inputs = {"x": x_BCHW.to(memory_format=torch.channels_last), "target": target_B, "index": index_B}
        self._device = setting.device
        network = random_teacher(str(configs[0].teacher), setting.num_classes, setting.image_size)
        targets_N = torch.arange(NUM_IMAGES) % setting.num_classes
        self.lanes = [
            Lane(config, setting.num_classes, setting.image_size, setting.device, network, targets_N)
            for config in configs
        ]
        self.requests = [request for lane in self.lanes for request in lane.requests]
        self.teacher = BatchTeacher(
            network, self.requests, setting.device, teacher_precision, setting.image_size, storage
        )
        for lane in self.lanes:
            lane.start_epoch(EPOCH)
        self._step = CohortStep(self.lanes, self.prepared, setting.device, _raise, _refuse)

    def outputs(self) -> Mapping[Request, Outputs]:
        """Compute the teacher's outputs for the batch."""
        return self.prepared(self.inputs)[1]

    def lane_steps(self) -> list[Task]:
        """Make a task for every student: its own step on the batch, with teacher outputs that are there already."""
        ready = self.prepared(self.inputs)
        steps = [CohortStep([lane], lambda _: ready, self._device, _raise, _refuse) for lane in self.lanes]
        return [partial(step, self.inputs) for step in steps]

    def step(self) -> None:
        """Run the teacher, then train every student for one step."""
        self._step(self.inputs)

    def step_on(self, batch: Batch, cells_BSK: Tensor) -> None:
        """Train every student for one step on a batch with the teacher's stored cells."""
        index_B = self.inputs["index"] if batch.index_B is None else batch.index_B
        self._step({"x": batch.views["weak"], "target": batch.target_B, "index": index_B, "cells": cells_BSK})

    def prepared(self, inputs: Inputs) -> tuple[Batch, Mapping[Request, Outputs]]:
        """Make the batch, the same images in every view that a student sees, and the teacher's outputs for it."""
        views = {request.view: inputs["x"] for request in self.requests}
        shown = self.teacher.outputs(views, [inputs["cells"]] if "cells" in inputs else ())
        return Batch(views, inputs["target"], inputs["index"]), shown


def _raise(lane: Lane, error: Exception) -> None:
    """Raise the error: a cohort that lost a lane would be measured as a whole one."""
    raise error


def _refuse(reason: str) -> None:
    """Raise RuntimeError: an eager step would be measured as a captured one."""
    raise RuntimeError(reason)


def reference_step(setting: Setting, configs: Sequence[RunConfig]) -> dict[str, Task]:
    """One step of the reference's loop, for every student."""
    return {"": References(setting, configs).step}


def our_steps(setting: Setting, configs: Sequence[RunConfig]) -> dict[str, Task]:
    """One step of our loop, for every student, by the teacher's precision."""
    return {precision: Cohort(setting, configs, precision).step for precision in setting.precisions}


def random_data(num_train: int, num_test: int, side: int, image_size: int, padding: int, classes: int) -> DataSet:
    """Draw random uint8 images of the given side, cropped to `image_size`, in memory."""
    rng = generator("perf images")

    def images(count: int) -> MemoryImages:
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=rng)
        return MemoryImages(pixels, torch.arange(count) % classes)

    return DataSet(
        name="random",
        classes=tuple(map(str, range(classes))),
        image_size=image_size,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        train=images(num_train),
        test=images(num_test),
        augmentation=Augmentation(padding=padding, flip=True),
        digest="random",
    )
