"""Cohorts side by side."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import torch

from benchmark import environment
from benchmark.perf.base import Row, Setting, measurement, timed
from benchmark.perf.workload import PAIRS, Cohort, Pair, cohort_configs

STUDENTS = 2
_cohorts: list[Cohort] = []


@measurement("Two cohorts on a CPU", place=110, quick_s=17, full_s=70)
def processes(setting: Setting) -> Iterator[Row]:
    """Ours against ours: two cohorts (a teacher, KD and SD-KD each) one after the other in a process with two threads
    ("reference"), against side by side in two processes with one thread each ("ours"). Time per student and step."""
    if setting.device.type != "cpu" or environment.available_cores() < 2:
        return
    for pair in setting.choose(PAIRS[2:], (PAIRS[0], PAIRS[2])):
        with ExitStack() as stack:
            together, *apart = (
                stack.enter_context(_worker(replace(setting, threads=threads), pair, cohorts))
                for threads, cohorts in ((2, 2), (1, 1), (1, 1))
            )

            def one_process(worker: ProcessPoolExecutor = together) -> float:
                return worker.submit(_step).result()

            def two_processes(workers: list[ProcessPoolExecutor] = apart) -> float:
                steps = [worker.submit(_step) for worker in workers]
                return sum(step.result() for step in steps)

            found = setting.interleaved({"one": one_process, "two": two_processes}, quick_s=2, full_s=20)
        yield timed(f"{pair}, 2 cohorts of {STUDENTS}", found["one"], found["two"], portions=2 * STUDENTS)


def _worker(setting: Setting, pair: Pair, cohorts: int) -> ProcessPoolExecutor:
    """Return a fresh process that holds so many cohorts."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(setting, pair, cohorts))


def _prepare(setting: Setting, pair: Pair, cohorts: int) -> None:
    environment.set_numerics(torch.device("cpu"), setting.threads)
    environment.keep_freed_memory()  # as every worker that trains
    _cohorts[:] = [Cohort(setting, cohort_configs(pair, STUDENTS)) for _ in range(cohorts)]


def _step() -> float:
    """Take one step of every cohort of this process; return the CPU seconds."""
    started = time.process_time()
    for cohort in _cohorts:
        cohort.step()
    return time.process_time() - started
