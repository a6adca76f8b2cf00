"""Whole epochs, from images to test accuracy."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save as serialize

from benchmark.config import RunConfig
from benchmark.datasets.base import DataSet
from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.reference import Trainer
from benchmark.perf.reference_loader import eval_loader, train_loader
from benchmark.perf.workload import PAIRS, Pair, random_data, random_teacher, run_config
from benchmark.train.lane import weights_of
from benchmark.train.loop import train_cohort
from benchmark.train.messages import CohortJob, LaneFailed, LaneJob, TeacherFile

EPOCHS = 2


@measurement("Epoch with evaluation, one student", quick_s=13, full_s=90)
def epoch(setting: Setting) -> Iterator[SideBySide]:
    """Time per epoch of a whole run of two epochs on random images of CIFAR's size: making the networks, loading and
    augmenting, training, evaluating after each epoch, saving. The reference has its loader processes; ours is
    `train_cohort`, which also scores calibration and agreement, for which its teacher sees the test images once."""
    gpu = setting.device.type == "cuda"
    sizes = setting.choose((2000, 1000), (50_000, 10_000)) if gpu else setting.choose((320, 128), (2000, 1000))
    pair = PAIRS[2]
    with tempfile.TemporaryDirectory() as folder:
        # the reference's loader processes start and end slowly below a process that is itself such a worker
        alone = reference_run(setting, pair, sizes, Path(folder))
        with apart(setting, {"ours": partial(our_run, setting, pair, sizes, Path(folder))}) as tasks:
            # a run is long enough to need no warm-up
            both = {**alone, **tasks}
            found = setting.interleaved(both, quick_s=8, full_s=60, warmup=0, rounds=setting.choose(2, 3))
    label = f"{pair}, {sizes[0]} + {sizes[1]} images"
    yield timed(label, found["reference"], found["ours"], portions=EPOCHS)


def reference_run(setting: Setting, pair: Pair, sizes: tuple[int, int], folder: Path) -> dict[str, Task]:
    """A run of the reference."""
    config, data = run_config(pair, epochs=EPOCHS, batch_size=setting.batch_size), images(setting, sizes)

    def run() -> None:
        network = random_teacher(pair.teacher, data.num_classes, data.image_size)
        trainer = Trainer(config, network, data.num_classes, data.image_size, setting.device)
        run_reference(setting, config, trainer, data, folder)

    return {"reference": run}


def our_run(setting: Setting, pair: Pair, sizes: tuple[int, int], folder: Path) -> dict[str, Task]:
    """A run of ours, a new one at every call: a finished run would not train again."""
    config, data = run_config(pair, epochs=EPOCHS, batch_size=setting.batch_size), images(setting, sizes)
    content = serialize(weights_of(random_teacher(pair.teacher, data.num_classes, data.image_size)))
    file = TeacherFile(pair.teacher, folder / "teacher.safetensors", hashlib.sha256(content).hexdigest())
    file.path.write_bytes(content)
    numbers = itertools.count()

    def run() -> None:
        place = folder / str(next(numbers))
        lane = LaneJob("perf", config, place / "checkpoint", place / "student.safetensors")
        job = CohortJob("perf", (lane,), file, folder, folder, str(setting.device), threads=setting.threads)
        failed: list[LaneFailed] = []
        train_cohort(job, lambda event: failed.append(event) if isinstance(event, LaneFailed) else None, data=data)
        if failed:
            raise RuntimeError(failed[0].reason)

    return {"": run}


def images(setting: Setting, sizes: tuple[int, int]) -> DataSet:
    """Draw random images, of the given numbers for training and test."""
    return random_data(*sizes, setting.image_size, setting.image_size, padding=4, classes=setting.num_classes)


def run_reference(setting: Setting, config: RunConfig, trainer: Trainer, data: DataSet, folder: Path) -> None:
    """Train, test and save as the released loop does."""
    batches, tests = train_loader(data, config.recipe.batch_size), eval_loader(data)
    for number in range(1, EPOCHS + 1):
        trainer.start_epoch(number)
        for image_BCHW, target_B, _ in batches:
            trainer.step(image_BCHW, target_B, number)
        trainer.validate(tests)
        state = {"model": trainer.both.state_dict(), "optimizer": trainer.optimizer.state_dict(), "epoch": number}
        torch.save(state, folder / "latest")
        torch.save({"model": trainer.student.state_dict()}, folder / "student_latest")
