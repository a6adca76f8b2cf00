"""What a measurement is: a name, a definition, and rows that set the reference beside ours."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from benchmark.config import Precision
from benchmark.perf.measure import Ratio, Samples, Task, interleaved, ratio, stopwatch
from benchmark.registry import Registry

T = TypeVar("T")

Unit = Literal["s", "images/s", "MiB", "operators", "host reads"]


@dataclass(frozen=True)
class Setting:
    """On what and at which size everything is measured."""

    device: torch.device
    threads: int
    quick: bool
    #: of our teacher: bf16 is left out where the device is slower at it
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    batch_size: int = 64
    image_size: int = 32
    num_classes: int = 100

    def choose(self, quick: T, full: T) -> T:
        """Return what fits the setting."""
        return quick if self.quick else full

    def interleaved(
        self, tasks: Mapping[str, Task], quick_s: float, full_s: float, *, warmup: int = 1, rounds: int | None = None
    ) -> dict[str, Samples]:
        """Time the tasks in turns for about so many seconds, at least `rounds` times (by default 3 or 5 times)."""
        at_least = rounds or self.choose(3, 5)
        watch = stopwatch(self.device)
        return interleaved(tasks, self.choose(quick_s, full_s), watch, warmup=warmup, min_rounds=at_least)


@dataclass(frozen=True)
class Side:
    """What one of the two took, in the row's unit: per step and student, per epoch, per second, or counted."""

    median: float
    #: of the fastest call
    best: float
    #: median CPU seconds for the same work, all threads; None where nothing was timed
    cpu_s: float | None = None


@dataclass(frozen=True)
class SideBySide:
    """One line of a measurement: the reference and ours."""

    label: str
    unit: Unit
    reference: Side
    ours: Side
    #: how many times better ours is; None when nothing is left to divide by
    ratio: Ratio | None
    #: timed calls of each
    rounds: int


def timed(label: str, reference: Samples, ours: Samples, portions: float = 1) -> SideBySide:
    """Return the row of two timings; a call did `portions` (steps of a student, epochs), and one is shown."""
    return SideBySide(
        label, "s", _seconds(reference, portions), _seconds(ours, portions), ratio(reference, ours), _rounds(ours)
    )


def throughput(label: str, reference: Samples, ours: Samples, images: int) -> SideBySide:
    """Return the row of two timings of `images` images, shown as images per second; CPU seconds are per image."""

    def side(samples: Samples) -> Side:
        one = _seconds(samples, images)
        return Side(1 / one.median, 1 / one.best, one.cpu_s)

    return SideBySide(label, "images/s", side(reference), side(ours), ratio(reference, ours), _rounds(ours))


def counted(label: str, unit: Unit, reference: float, ours: float) -> SideBySide:
    """Return the row of two counts of which fewer is better."""
    times = reference / ours if ours else None
    return SideBySide(
        label,
        unit,
        Side(reference, reference),
        Side(ours, ours),
        None if times is None else Ratio(times, times, times, times, None),
        rounds=1,
    )


def _seconds(samples: Samples, portions: float) -> Side:
    return Side(
        statistics.median(samples.wall_s) / portions,
        min(samples.wall_s) / portions,
        statistics.median(samples.cpu_s) / portions,
    )


def _rounds(samples: Samples) -> int:
    return len(samples.wall_s)


Measure = Callable[[Setting], Iterator[SideBySide]]


@dataclass(frozen=True)
class Measurement:
    """A named way to get rows."""

    name: str
    title: str
    #: what the two sides are and what is included
    definition: str
    #: about how long it takes on two CPU cores, in seconds, with --quick and without
    quick_s: float
    full_s: float
    measure: Measure


registry: Registry[Measurement] = Registry("measurement", listed_by="python -m benchmark.perf --help")


def measurement(title: str, *, quick_s: float, full_s: float) -> Callable[[Measure], Measure]:
    """Decorator: register a function that yields rows under its own name; its docstring is the definition."""

    def add(measure: Measure) -> Measure:
        name = measure.__name__
        definition = " ".join((inspect.getdoc(measure) or "").split())
        registry.add(name, Measurement(name, title, definition, quick_s, full_s, measure))
        return measure

    return add
