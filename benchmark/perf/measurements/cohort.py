"""Several students on one teacher pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.workload import PAIRS, cohort_configs, our_steps, reference_step


@measurement("Training iteration, several students of one teacher", quick_s=15, full_s=150)
def cohort(setting: Setting) -> Iterator[SideBySide]:
    """Time per student of a cohort (KD, SD-KD, DKD, SD-DKD, and from the fifth on NKD, SD-NKD, SD-KD and SD-DKD at
    another beta), against as many reference iterations of the same methods, each with its own teacher pass."""
    for pair in setting.choose(PAIRS[:1], (PAIRS[0], PAIRS[2])):
        for students in setting.choose((4,), (4, 8)):
            configs = cohort_configs(pair, students)
            sides = {
                "reference": partial(reference_step, setting, configs),
                "ours": partial(our_steps, setting, configs),
            }
            with apart(setting, sides) as tasks:
                found = setting.interleaved(tasks, quick_s=4, full_s=20, rounds=setting.choose(2, 5))
            for precision in setting.precisions:
                label = f"{pair}, {students} students, teacher {precision}"
                yield timed(label, found["reference"], found[f"ours/{precision}"], portions=students)
