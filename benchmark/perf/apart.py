"""Run each side in its own process, as in real training: the settings of C's allocator hold for a whole process.

Ours keeps freed memory, as every worker that trains does; the reference has the default settings. The two processes
live until `close` and get new tasks from every measurement.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from benchmark import machine
from benchmark.perf.base import Setting
from benchmark.perf.measure import Task

#: makes tasks by name; picklable
Make = Callable[[], Mapping[str, Task]]
T = TypeVar("T")

_pools: dict[str, ProcessPoolExecutor] = {}
#: tasks that this process holds, when it is one of the two
_tasks: dict[str, Task] = {}


@contextmanager
def apart(setting: Setting, sides: Mapping[str, Make]) -> Iterator[dict[str, Task]]:
    """Yield the tasks of all sides by `side` or `side/task`: in a process per side on a CPU, in this process on a GPU.

    `sides` maps `reference` and `ours` to functions that make their tasks; a task called "" gets its side's name.
    """
    tasks: dict[str, Task] = {}
    if setting.device.type == "cpu":
        for side in sides.keys() - _pools.keys():
            _pools[side] = worker(keep_memory=side == "ours")
        made = {side: _pools[side].submit(hold, setting, make) for side, make in sides.items()}
        for side, names in made.items():
            tasks |= {_title(side, name): _there(_pools[side], name) for name in names.result()}
    else:
        for side, make in sides.items():
            tasks |= {_title(side, name): task for name, task in make().items()}
    try:
        yield tasks
    finally:
        if setting.device.type == "cpu":
            for side in sides:
                _ask(side, drop)


def _ask(side: str, function: Callable[[], T]) -> T | None:
    """Call a function in a side's process; None when it has died: the next measurement starts another."""
    try:
        return _pools[side].submit(function).result()
    except BrokenProcessPool:
        _pools.pop(side).shutdown()
        return None


def worker(*, keep_memory: bool) -> ProcessPoolExecutor:
    """Make a pool of one fresh process for `hold`, `call` and `drop`."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(keep_memory,))


def hold(setting: Setting, make: Make) -> list[str]:
    """Make the tasks of this process and return their names."""
    machine.set_numerics(setting.device, setting.threads)
    _tasks.update(make())
    return list(_tasks)


def call(name: str) -> float:
    """Run a task of this process; return its CPU seconds."""
    started = time.process_time()
    _tasks[name]()
    return time.process_time() - started


def drop() -> None:
    """Delete the tasks of this process, and give back their memory."""
    _tasks.clear()
    gc.collect()
    machine.release_freed_memory()


def cpu_seconds() -> float:
    """CPU seconds of the processes that are running."""
    return sum(_ask(side, time.process_time) or 0.0 for side in [*_pools])


def close() -> None:
    """End the processes."""
    while _pools:
        _pools.popitem()[1].shutdown()


def _begin(keep_memory: bool) -> None:
    if keep_memory:
        machine.keep_freed_memory()


def _title(side: str, name: str) -> str:
    return f"{side}/{name}" if name else side


def _there(pool: ProcessPoolExecutor, name: str) -> Task:
    return lambda: pool.submit(call, name).result()
