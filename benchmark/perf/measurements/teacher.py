"""The teacher's forward by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmark.perf import reference
from benchmark.perf.base import Row, Setting, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.workload import Cohort, Pair, random_batch, random_teacher, run_config

SCALES = (1, 2, 4)


@measurement("Teacher forward alone", place=30, quick_s=8, full_s=60)
def teacher(setting: Setting) -> Iterator[Row]:
    """Logits of the image and of 21 regions of one batch, without gradient: the network as it is, in NCHW and fp32,
    against our BatchTeacher in fp32 and in bf16. Random weights."""
    for name in ["resnet32x4", "vgg13", *setting.choose([], ["wrn_40_2"])]:
        found = setting.interleaved(tasks(setting, name), quick_s=1, full_s=18)
        for precision in ("fp32", "bf16"):
            yield timed(f"{name}, {precision}", found["reference"], found[precision])


def tasks(setting: Setting, name: str) -> dict[str, Task]:
    """Return the three ways to a teacher's outputs for the same batch."""
    config = run_config(Pair(name, "resnet8"))  # the student is not run
    x_BCHW, _ = random_batch(setting)
    network = random_teacher(name, setting.num_classes, setting.image_size).to(setting.device)
    fp32, bf16 = Cohort(setting, [config], "fp32"), Cohort(setting, [config], "bf16")

    @torch.no_grad()
    def plain() -> None:
        reference.forward(network, x_BCHW, SCALES)

    def in_fp32() -> None:
        fp32.outputs()

    def in_bf16() -> None:
        bf16.outputs()

    return {"reference": plain, "fp32": in_fp32, "bf16": in_bf16}
