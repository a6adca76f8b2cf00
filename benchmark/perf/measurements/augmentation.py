"""Training views from images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmark.config import Recipe
from benchmark.datasets.base import DataSet
from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, throughput
from benchmark.perf.measure import Task
from benchmark.perf.reference_loader import NUM_WORKERS, to_device, train_loader
from benchmark.perf.workload import random_data
from benchmark.train.batches import TrainStream, on_device


@measurement("Augmentation", quick_s=7, full_s=30)
def augmentation(setting: Setting) -> Iterator[SideBySide]:
    """An epoch of random crops, flips and normalised batches on the device from uint8 images in memory: PIL transforms
    per image in a loader with two processes (their start included), against our whole-batch stream. At CUB's size
    images are decoded and resized to 256 × 256 already, for both."""
    cifar = (setting.choose(2048, 10000), 1, 32, 32, 4, 100)
    cub = (setting.choose(192, 960), 1, 256, 224, 0, 100)
    for label, sizes in (("CIFAR: crop 32 from 32 + 2 · 4", cifar), ("CUB: crop 224 from 256", cub)):
        with apart(setting, {"ours": partial(our_epoch, setting, sizes)}) as tasks:
            # the reference's loader processes start and end slowly below a process that is itself a worker
            found = setting.interleaved({"reference": reference_epoch(setting, sizes), **tasks}, quick_s=2, full_s=12)
        yield throughput(f"{label}, {NUM_WORKERS} workers", found["reference"], found["ours"], sizes[0])


def reference_epoch(setting: Setting, sizes: tuple[int, int, int, int, int, int]) -> Task:
    """One epoch of the reference's loader."""
    return partial(to_device, train_loader(random_data(*sizes), setting.batch_size), setting.device)


def our_epoch(setting: Setting, sizes: tuple[int, int, int, int, int, int]) -> dict[str, Task]:
    """One epoch of our stream."""
    return {"": partial(run_epoch, train_stream(setting, random_data(*sizes)))}


def run_epoch(stream: TrainStream) -> None:
    """Make every batch of an epoch."""
    for _ in stream.epoch(1):
        pass


def train_stream(setting: Setting, data: DataSet) -> TrainStream:
    """Make our stream over all training images."""
    return TrainStream(
        data,
        on_device(data.train, setting.device),
        torch.arange(len(data.train)),
        Recipe(batch_size=setting.batch_size),
        1,
        ["weak"],
        setting.device,
    )
