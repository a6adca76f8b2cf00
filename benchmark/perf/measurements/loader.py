"""Training views from image files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmark.datasets.image_files import FileImages
from benchmark.perf.base import Setting, SideBySide, measurement, throughput
from benchmark.perf.measure import Task
from benchmark.perf.measurements.augmentation import run_epoch, train_stream
from benchmark.perf.reference_loader import file_loader, to_device
from benchmark.perf.workload import random_data
from benchmark.process import available_cores
from benchmark.randomness import generator

SIDE, CROP, CLASSES = 256, 224, 4


@measurement("Images streamed from files", quick_s=8, full_s=30)
def loader(setting: Setting) -> Iterator[SideBySide]:
    """An epoch over JPEG files of 500 × 375 pixels: decode, resize to 256 × 256, crop 224, flip, normalise, on the
    device. torchvision's ImageFolder and DataLoader against our stream over FileImages, with as many worker processes
    each, their start included."""
    workers = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        paths, targets_N = write_files(Path(folder), setting.choose(256, 1024))
        found = setting.interleaved(tasks(setting, folder, paths, targets_N, workers), quick_s=4, full_s=25)
    yield throughput(f"{len(paths)} JPEG files, {workers} workers", found["reference"], found["ours"], len(paths))


def write_files(folder: Path, count: int) -> tuple[list[Path], Tensor]:
    """Write smooth random pictures, which compress as photographs do, one subfolder per class."""
    rng = generator("perf files")
    paths = []
    for number in range(count):
        coarse = torch.rand(1, 3, 24, 32, generator=rng)
        fine = F.interpolate(coarse, size=(375, 500), mode="bilinear")[0] + 0.05 * torch.rand(
            3, 375, 500, generator=rng
        )
        pixels = (fine.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        path = folder / str(number % CLASSES) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path, quality=90)
        paths.append(path)
    return paths, torch.arange(count) % CLASSES


def tasks(setting: Setting, folder: str, paths: list[Path], targets_N: Tensor, workers: int) -> dict[str, Task]:
    """One epoch of each side."""
    memory = random_data(1, 1, side=SIDE, image_size=CROP, padding=0, classes=CLASSES)
    data = replace(memory, train=FileImages(paths, targets_N, SIDE, num_workers=workers))
    batches = file_loader(folder, data, SIDE, setting.batch_size, workers)
    return {
        "reference": partial(to_device, batches, setting.device),
        "ours": partial(run_epoch, train_stream(setting, data)),
    }
