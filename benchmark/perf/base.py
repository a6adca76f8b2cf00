"""Measurements: a name, a definition, and rows that compare the reference with ours."""

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
    """The device, threads and sizes of all measurements."""

    device: torch.device
    threads: int
    quick: bool
    #: precisions of our teacher: bf16 is left out where the device is slower at it
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    batch_size: int = 64
    image_size: int = 32
    num_classes: int = 100

    def choose(self, quick: T, full: T) -> T:
        """Choose between the quick and the full value."""
        return quick if self.quick else full

    def interleaved(
        self, tasks: Mapping[str, Task], quick_s: float, full_s: float, *, warmup: int = 1, rounds: int | None = None
    ) -> dict[str, Samples]:
        """Time the tasks in turns for about this many seconds, at least `rounds` times (default: 3 quick, 5 full)."""
        at_least = rounds or self.choose(3, 5)
        watch = stopwatch(self.device)
        return interleaved(tasks, self.choose(quick_s, full_s), watch, warmup=warmup, min_rounds=at_least)


@dataclass(frozen=True)
class Side:
    """Result of one side in the row's unit: time per step and student or per epoch, images per second, or a count."""

    median: float
    #: of the fastest call
    best: float
    #: median CPU seconds for the same work, all threads; None where nothing was timed
    cpu_s: float | None = None


@dataclass(frozen=True)
class SideBySide:
    """A row of a measurement: the reference and ours."""

    label: str
    unit: Unit
    reference: Side
    ours: Side
    #: how many times better ours is; None when ours is 0
    ratio: Ratio | None
    #: timed calls of each
    rounds: int


def timed(label: str, reference: Samples, ours: Samples, portions: float = 1) -> SideBySide:
    """Make a row of two timings, per portion: each call did `portions` of them (steps of a student, epochs)."""
    return SideBySide(
        label, "s", _seconds(reference, portions), _seconds(ours, portions), ratio(reference, ours), _rounds(ours)
    )


def throughput(label: str, reference: Samples, ours: Samples, images: int) -> SideBySide:
    """Make a row of two timings of `images` images, shown as images per second; CPU seconds are per image."""

    def side(samples: Samples) -> Side:
        per_image = _seconds(samples, images)
        return Side(1 / per_image.median, 1 / per_image.best, per_image.cpu_s)

    return SideBySide(label, "images/s", side(reference), side(ours), ratio(reference, ours), _rounds(ours))


def counted(label: str, unit: Unit, reference: float, ours: float) -> SideBySide:
    """Make a row of two counts; fewer is better."""
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
    """A function that yields rows, with its name, title and definition."""

    name: str
    title: str
    #: description of the two sides and of the work that is included
    definition: str
    #: approximate seconds on two CPU cores, with --quick and without
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
