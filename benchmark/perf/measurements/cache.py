"""One training iteration when the teacher's outputs for the batch are at hand."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.perf.base import Row, Setting, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.workload import PAIRS, Cohort, Pair, References, run_config


@measurement("Training iteration, teacher outputs at hand", place=60, quick_s=12, full_s=60)
def cache(setting: Setting) -> Iterator[Row]:
    """As the iteration of one student, but the teacher's outputs for the batch were computed before and lie in
    memory: what a cache of views can reach at best. The reference runs its teacher."""
    for pair in PAIRS:
        found = setting.interleaved(tasks(setting, pair), quick_s=2, full_s=16)
        yield timed(str(pair), found["reference"], found["ours"])


def tasks(setting: Setting, pair: Pair) -> dict[str, Task]:
    """Return both steps; of ours, all but the teacher's forward."""
    config = run_config(pair)
    ours = Cohort(setting, [config])
    shown = ours.outputs()

    def students() -> None:
        ours.lane_steps(shown)

    return {"reference": References(setting, [config]).step, "ours": students}
