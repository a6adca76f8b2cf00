"""The teacher's forward by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmark.perf import reference
from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.workload import Cohort, Pair, random_batch, random_teacher, run_config

SCALES = (1, 2, 4)


@measurement("Teacher forward alone", quick_s=9, full_s=65)
def teacher(setting: Setting) -> Iterator[SideBySide]:
    """Logits of the image and of 21 regions of one batch, without gradient: the network as it is, in NCHW and fp32,
    against our BatchTeacher in fp32 and in bf16. Random weights."""
    for name in ["resnet32x4", *setting.choose([], ["vgg13", "wrn_40_2"])]:
        sides = {"reference": partial(plain, setting, name), "ours": partial(folded, setting, name)}
        with apart(setting, sides) as tasks:
            found = setting.interleaved(tasks, quick_s=1.5, full_s=18)
        for precision in setting.precisions:
            yield timed(f"{name}, {precision}", found["reference"], found[f"ours/{precision}"])


def plain(setting: Setting, name: str) -> dict[str, Task]:
    """The reference's teacher pass."""
    x_BCHW, _ = random_batch(setting)
    network = random_teacher(name, setting.num_classes, setting.image_size).to(setting.device)

    @torch.no_grad()
    def run() -> None:
        reference.forward(network, x_BCHW, SCALES)

    return {"": run}


def folded(setting: Setting, name: str) -> dict[str, Task]:
    """Our teacher pass on the same batch, by precision."""
    config = run_config(Pair(name, "resnet8"))  # the student is not run

    def run(cohort: Cohort) -> None:
        cohort.outputs()

    return {precision: partial(run, Cohort(setting, [config], precision)) for precision in setting.precisions}
