"""Training from a view cache that earlier runs have filled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.workload import EPOCH, PAIRS, Cohort, Pair, random_data, reference_step, run_config
from benchmark.train.batches import TrainStream, on_device
from benchmark.train.messages import TeacherFile
from benchmark.train.view_cache import open_caches

STEPS = 1


@measurement("Training iteration, teacher from a filled view cache", quick_s=10, full_s=75)
def cache(setting: Setting) -> Iterator[SideBySide]:
    """As the iteration of one student, but ours draws and augments its batch, and reads the teacher's outputs for it
    from a cache file (fp16), checksums verified. Memory holds the file: a larger one is read from the disk. The
    reference runs its teacher on a batch that is on the device."""
    for pair in setting.choose((PAIRS[0], PAIRS[2]), PAIRS):
        with tempfile.TemporaryDirectory() as folder:
            sides = {
                "reference": partial(reference_step, setting, [run_config(pair)] * STEPS),
                "ours": partial(from_cache, setting, pair, Path(folder)),
            }
            with apart(setting, sides) as tasks:
                found = setting.interleaved(tasks, quick_s=2, full_s=18, rounds=setting.choose(2, 5))
        yield timed(str(pair), found["reference"], found["ours"], portions=STEPS)


def from_cache(setting: Setting, pair: Pair, folder: Path) -> dict[str, Task]:
    """Make an epoch of a few steps whose views are all stored."""
    config = run_config(pair, batch_size=setting.batch_size)
    data = random_data(STEPS * setting.batch_size, 1, setting.image_size, setting.image_size, 4, setting.num_classes)
    cohort = Cohort(setting, [config], storage="fp16")
    file = TeacherFile(pair.teacher, folder / "none", checksum="random")
    cached = open_caches(cohort.teacher, file, data, len(data.train), folder, None, print)
    members, images = torch.arange(len(data.train)), on_device(data.train, setting.device)
    stream = TrainStream(data, images, members, config.recipe, config.seed, ["weak"], setting.device)
    for _ in cached.epoch(stream, EPOCH):  # stored here, read below
        pass

    def epoch() -> None:
        for batch, (cells_BSK,) in zip(stream.epoch(EPOCH), cached.epoch(stream, EPOCH), strict=True):
            cohort.step_on(batch, cells_BSK)

    return {"": epoch}
