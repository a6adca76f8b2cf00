"""Time several ways to do the same work in turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

#: does one portion of work; may return the CPU seconds that other, still running processes spent on it
Task = Callable[[], float | None]


class Spent(NamedTuple):
    """The seconds that a call took; `cpu_s` sums over all threads."""

    wall_s: float
    cpu_s: float


class Stopwatch(Protocol):
    """Times one call of a task."""

    def time(self, task: Task) -> Spent:
        """Call the task and return the seconds that it took."""
        ...


def cpu_seconds() -> float:
    """CPU seconds of this process, all threads, and of its children that have ended (loader workers)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def machine_busy_seconds() -> float | None:
    """CPU seconds that the machine has been busy since it started; None where it does not report them."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class CpuStopwatch:
    """Times work that is finished when the call returns."""

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, cpu_now: Callable[[], float] = cpu_seconds
    ) -> None:
        self._now, self._cpu_now = now, cpu_now

    def time(self, task: Task) -> Spent:
        """Call the task and return the seconds that it took."""
        cpu, wall = self._cpu_now(), self._now()
        elsewhere = task()
        wall = self._now() - wall
        return Spent(wall, self._cpu_now() - cpu + (elsewhere or 0.0))


class CudaStopwatch:
    """Times from an idle device to an idle device, by events on the stream that the task launches on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, task: Task) -> Spent:
        """Call the task and return the seconds that it took."""
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        stream = torch.cuda.current_stream(self.device)
        cpu = cpu_seconds()
        started.record(stream)
        elsewhere = task()
        # work on other streams is waited for too: an event alone would see this stream's end
        torch.cuda.synchronize(self.device)
        ended.record(stream)
        ended.synchronize()
        return Spent(started.elapsed_time(ended) / 1000, cpu_seconds() - cpu + (elsewhere or 0.0))


def stopwatch(device: torch.device) -> Stopwatch:
    """Make the stopwatch for work on a device."""
    return CudaStopwatch(device) if device.type == "cuda" else CpuStopwatch()


@dataclass(frozen=True)
class Samples:
    """The seconds of every timed call, in the order of the rounds."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]


def interleaved(
    tasks: Mapping[str, Task], seconds: float, watch: Stopwatch, *, warmup: int = 1, min_rounds: int = 3
) -> dict[str, Samples]:
    """Call every task once per round until the rounds took `seconds` in all, and at least `min_rounds` times.

    `warmup` rounds before them are not counted. The order rotates by one from round to round, so that no task always
    finds the caches as the same other task left them.
    """
    names = list(tasks)
    spent: dict[str, list[Spent]] = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            tasks[name]()
    total, rounds = 0.0, 0
    while rounds < min_rounds or total < seconds:
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            call = watch.time(tasks[name])
            spent[name].append(call)
            total += call.wall_s
        rounds += 1
    return {
        name: Samples(tuple(call.wall_s for call in calls), tuple(call.cpu_s for call in calls))
        for name, calls in spent.items()
    }


@dataclass(frozen=True)
class Ratio:
    """How many times less time the second of two tasks takes than the first: above 1 it is faster."""

    #: of the median seconds
    medians: float
    #: lower and upper quartile of the ratios within each round
    low: float
    high: float
    #: of the fastest calls
    minima: float
    #: of the median CPU seconds; None where too little was spent to measure
    cpu: float | None


def ratio(first: Samples, second: Samples) -> Ratio:
    """Compute how many times less `second` took than `first` for the same work, both from the same rounds."""
    rounds = [a / b for a, b in zip(first.wall_s, second.wall_s, strict=True)]
    low, high = quartiles(rounds)
    cpu = statistics.median(second.cpu_s)
    return Ratio(
        medians=statistics.median(first.wall_s) / statistics.median(second.wall_s),
        low=low,
        high=high,
        minima=min(first.wall_s) / min(second.wall_s),
        cpu=statistics.median(first.cpu_s) / cpu if cpu > 0 else None,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile, interpolated; a single value is both."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
