"""One training iteration of one student."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.workload import PAIRS, our_steps, reference_step, run_config


@measurement("Training iteration, one student", quick_s=14, full_s=85)
def step(setting: Setting) -> Iterator[SideBySide]:
    """SD-KD at scales 1, 2, 4: teacher, student forward and backward, clipping, SGD and the training metrics, on one
    batch that is on the device already; the student in fp32, our teacher in fp32 or bf16."""
    for pair in setting.choose((PAIRS[0], PAIRS[2]), PAIRS):
        configs = [run_config(pair)]
        sides = {"reference": partial(reference_step, setting, configs), "ours": partial(our_steps, setting, configs)}
        with apart(setting, sides) as tasks:
            found = setting.interleaved(tasks, quick_s=2, full_s=20, rounds=setting.choose(2, 5))
        for precision in setting.precisions:
            yield timed(f"{pair}, teacher {precision}", found["reference"], found[f"ours/{precision}"])
