"""Sections of a report: functions from the context of a suite to blocks of text, figures and tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmark import results
from benchmark.analysis.gains import Best, Gain, gains, leaders
from benchmark.analysis.measured import Measured
from benchmark.analysis.table import Table
from benchmark.plan.resolve import Plan, PlannedRun
from benchmark.registry import Registry
from benchmark.tracking import Tracked, Tracker
from benchmark.train.teacher_store import Manifest

#: metric of the test accuracy after an epoch, in percent
ACCURACY = "test/top1"


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text: never markup."""

    text: str


@dataclass(frozen=True)
class Command:
    """A shell command to copy, and the sentence that introduces it."""

    text: str
    command: str


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption; its files are called `name`."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Listing:
    """A table; its files are called `name`."""

    name: str
    table: Table


Block = Text | Command | Drawing | Listing


@dataclass(frozen=True, eq=False)
class Context:
    """Everything that is known about a suite when its report is made. Read-only.

    Hashed by identity, so that sections can share cached look-ups.
    """

    plan: Plan
    #: name of the data as it was run, e.g. `cub200[50 classes]`
    dataset: str
    #: this plan's runs and others on the same images (studies, ablations), finished or not
    tracked: Sequence[Tracked]
    #: one row per run as `results.frame` gives it (a column per metric) and a column per parameter, prefixed `param.`
    frame: pd.DataFrame
    #: stored teachers by model
    teachers: Mapping[str, Manifest]
    #: the runs folder: stored weights, caches
    runs: Path
    data_root: Path
    tracker: Tracker | None = None
    #: address of the tracking server for links to runs; None: no links
    server: str | None = None
    #: problems with the data of the report, one line each
    problems: tuple[str, ...] = field(default=())
    #: digest of the images; "" when no run and no teacher names one
    data_digest: str = ""
    #: every run of the plan with its signature, which is None while its teacher is not known
    planned: tuple[tuple[PlannedRun, str | None], ...] = ()
    #: runs that the project measured under the settings of the plan
    measured: Measured = field(default_factory=Measured)
    #: arguments that choose this plan on the command line, the suite first: `cub --profile smoke`
    arguments: tuple[str, ...] = ()

    def command(self, *more: str) -> str:
        """The shell command that runs the plan, or what `more` chooses of it; seeds in `more` replace the plan's."""
        suite, *rest = self.arguments or (self.plan.suite.name,)
        if "--seeds" in more and "--seeds" in rest:
            place = rest.index("--seeds")
            del rest[place : place + 2]
        return shlex.join(["python", "-m", "benchmark.run", suite, *more, *rest])

    @cached_property
    def gains(self) -> list[Gain]:
        """Every method's gain over its base on every pair, decided together by the rule."""
        return gains(self.plan, self.frame, self.dataset)

    @cached_property
    def leaders(self) -> dict[str, Best | None]:
        """The best method of every pair by name, None where there is none."""
        return leaders(self.plan, self.frame, self.gains)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The test accuracies of the plan's finished runs: signature, run_id, epoch, metric, value.

        One metric only: a store is queried run by run and metric by metric.
        """
        if self.tracker is None:
            return pd.DataFrame(columns=["signature", "run_id", "epoch", "metric", "value"])
        wanted = set(self.frame.reindex(columns=["run_id"])["run_id"])
        narrow = [
            replace(run, metrics={ACCURACY: run.metrics[ACCURACY]})
            for run in self.tracked
            if run.run_id in wanted and run.status == "FINISHED" and ACCURACY in run.metrics
        ]
        with self.tracker.named_errors():
            return results.epochs(self.tracker, narrow)


Make = Callable[[Context], Sequence[Block]]


@dataclass(frozen=True)
class ReportSection:
    """A named part of the report."""

    name: str
    title: str
    make: Make


registry: Registry[ReportSection] = Registry("section", listed_by="python -m reports --list")


def section(title: str) -> Callable[[Make], Make]:
    """Decorator: register a function as the section of its own name."""

    def add(make: Make) -> Make:
        registry.add(make.__name__, ReportSection(make.__name__, title, make))
        return make

    return add
