"""Training views from images in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmark.batches import TrainStream
from benchmark.config import Recipe
from benchmark.datasets.base import DataSet
from benchmark.perf.base import Row, Setting, measurement, throughput
from benchmark.perf.measure import Task
from benchmark.perf.reference_loader import NUM_WORKERS, train_loader
from benchmark.perf.workload import random_data


@measurement("Augmentation", place=80, quick_s=5, full_s=30)
def augmentation(setting: Setting) -> Iterator[Row]:
    """An epoch of random crops, flips and normalised batches on the device from uint8 images in memory: PIL transforms
    per image in a loader with two processes (their start included), against our whole-batch stream. At CUB's size
    images are decoded and resized to 256 × 256 already, for both."""
    cifar = random_data(setting.choose(2048, 10000), 1, side=32, image_size=32, padding=4, classes=100)
    cub = random_data(setting.choose(192, 960), 1, side=256, image_size=224, padding=0, classes=100)
    for label, data in (("CIFAR: crop 32 from 32 + 2 · 4", cifar), ("CUB: crop 224 from 256", cub)):
        found = setting.interleaved(tasks(setting, data), quick_s=2, full_s=12)
        yield throughput(f"{label}, {NUM_WORKERS} workers", found["reference"], found["ours"], len(data.train))


def tasks(setting: Setting, data: DataSet) -> dict[str, Task]:
    """Return one epoch of both."""
    loader = train_loader(data, setting.batch_size)
    stream = train_stream(setting, data)

    def reference() -> None:
        for image_BCHW, target_B, _ in loader:
            image_BCHW.to(setting.device, non_blocking=True)
            target_B.to(setting.device, non_blocking=True)

    def ours() -> None:
        for _ in stream.epoch(1):
            pass

    return {"reference": reference, "ours": ours}


def train_stream(setting: Setting, data: DataSet) -> TrainStream:
    """Return our stream over all training images."""
    return TrainStream(
        data,
        data.train,
        torch.arange(len(data.train)),
        Recipe(batch_size=setting.batch_size),
        1,
        ["weak"],
        setting.device,
    )
