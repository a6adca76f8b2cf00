"""Several students on one teacher pass."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.perf.base import Row, Setting, measurement, timed
from benchmark.perf.workload import PAIRS, Cohort, References, cohort_configs


@measurement("Training iteration, several students of one teacher", place=50, quick_s=14, full_s=140)
def cohort(setting: Setting) -> Iterator[Row]:
    """Time per student of a cohort (KD, SD-KD, DKD, SD-DKD, and from the fifth on NKD, SD-NKD, SD-KD and SD-DKD at
    another beta), against as many reference iterations of the same methods, each with its own teacher pass."""
    for pair in setting.choose(PAIRS[:1], (PAIRS[0], PAIRS[2])):
        for students in setting.choose((4,), (4, 8)):
            configs = cohort_configs(pair, students)
            tasks = {
                "reference": References(setting, configs).step,
                "fp32": Cohort(setting, configs, "fp32").step,
                "bf16": Cohort(setting, configs, "bf16").step,
            }
            found = setting.interleaved(tasks, quick_s=4, full_s=20, rounds=setting.choose(2, 5))
            for precision in ("fp32", "bf16"):
                label = f"{pair}, {students} students, teacher {precision}"
                yield timed(label, found["reference"], found[precision], portions=students)
