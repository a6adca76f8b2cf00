"""One training iteration of one student."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.perf.base import Row, Setting, measurement, timed
from benchmark.perf.workload import PAIRS, Cohort, References, run_config


@measurement("Training iteration, one student", place=40, quick_s=17, full_s=75)
def step(setting: Setting) -> Iterator[Row]:
    """SD-KD at scales 1, 2, 4: teacher, student forward and backward, clipping, SGD and the training metrics, on one
    batch that is on the device already; the student in fp32, our teacher in fp32 or bf16."""
    for pair in PAIRS:
        config = run_config(pair)
        tasks = {
            "reference": References(setting, [config]).step,
            "fp32": Cohort(setting, [config], "fp32").step,
            "bf16": Cohort(setting, [config], "bf16").step,
        }
        found = setting.interleaved(tasks, quick_s=2, full_s=20)
        for precision in ("fp32", "bf16"):
            yield timed(f"{pair}, teacher {precision}", found["reference"], found[precision])
