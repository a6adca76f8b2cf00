"""Cohorts side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from benchmark import process
from benchmark.perf.apart import call, hold, worker
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.workload import PAIRS, Cohort, Pair, cohort_configs

STUDENTS = 2
TASK = "steps"


@measurement("Two cohorts on a CPU", quick_s=13, full_s=70)
def processes(setting: Setting) -> Iterator[SideBySide]:
    """Ours against ours: two cohorts (a teacher, KD and SD-KD each) one after the other in a process with two threads
    ("reference"), against side by side in two processes with one thread each ("ours"). Time per student and step."""
    if setting.device.type != "cpu" or process.available_cores() < 2:
        return
    for pair in setting.choose(PAIRS[2:], (PAIRS[0], PAIRS[2])):
        with worker(keep_memory=True) as together, worker(keep_memory=True) as one, worker(keep_memory=True) as other:
            made = [
                pool.submit(hold, replace(setting, threads=threads), partial(steps, setting, pair, cohorts))
                for pool, threads, cohorts in ((together, 2, 2), (one, 1, 1), (other, 1, 1))
            ]
            for one_made in made:
                one_made.result()

            def one_process(pool: ProcessPoolExecutor = together) -> float:
                return pool.submit(call, TASK).result()

            def two_processes(pools: tuple[ProcessPoolExecutor, ...] = (one, other)) -> float:
                running = [pool.submit(call, TASK) for pool in pools]
                return sum(future.result() for future in running)

            tasks: dict[str, Task] = {"one": one_process, "two": two_processes}
            found = setting.interleaved(tasks, quick_s=2, full_s=20, rounds=setting.choose(2, 5))
        yield timed(f"{pair}, 2 cohorts of {STUDENTS}", found["one"], found["two"], portions=2 * STUDENTS)


def steps(setting: Setting, pair: Pair, cohorts: int) -> dict[str, Task]:
    """A step of this many cohorts, one after the other."""
    made = [Cohort(setting, cohort_configs(pair, STUDENTS)) for _ in range(cohorts)]

    def run() -> None:
        for cohort in made:
            cohort.step()

    return {TASK: run}
