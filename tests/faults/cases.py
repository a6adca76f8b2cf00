"""The matrix of faults: which process breaks where, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Command = Literal["run", "inline run", "cached run", "report", "study", "study of two"]
Actor = Literal["command", "cohort worker", "study worker"]
When = Literal["before", "after"]
Point = tuple[str, str, When, int]


@dataclass(frozen=True)
class Fault:
    """One process that breaks at one point."""

    command: Command
    actor: Actor
    #: the point, in words
    point: str
    #: module:name of the function that is called there
    place: str
    when: When
    action: str
    #: which of its calls breaks
    call: int = 1
    #: only calls whose first argument, a path, contains this count
    path: str = ""

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.command}: {self.action} of the {self.actor}, {self.point}"


#: (point, place, when, call): what a command does, in the order in which it does it
COMMAND: tuple[Point, ...] = (
    ("surveying", "benchmark.execution.survey:Survey.look", "after", 1),
    ("reconciling", "benchmark.execution.reconcile:finished_work", "before", 1),
    ("after creating an experiment", "benchmark.tracking:Tracker.experiment", "after", 1),
    ("after creating a parent run", "benchmark.tracking:Tracker.parent", "after", 1),
    ("before creating a run", "benchmark.tracking:Tracker.start", "before", 2),
    ("after creating a run", "benchmark.tracking:Tracker.start", "after", 2),
    ("before logging an epoch", "benchmark.tracking:Tracker.log_epochs", "before", 3),
    ("after logging an epoch", "benchmark.tracking:Tracker.log_epochs", "after", 3),
    ("teacher weights without a manifest", "benchmark.train.teacher_store:load_network", "before", 1),
    ("after storing the teacher", "benchmark.train.teacher_store:store", "after", 1),
    ("before logging final figures", "benchmark.tracking:Tracker.summarise", "before", 1),
    ("after logging final figures", "benchmark.tracking:Tracker.summarise", "after", 2),
    ("before storing artifacts", "benchmark.tracking:Tracker.artifacts", "before", 2),
    ("after storing artifacts", "benchmark.tracking:Tracker.artifacts", "after", 1),
    ("before ending a run", "benchmark.tracking:Tracker.end", "before", 2),
    ("after ending a run", "benchmark.tracking:Tracker.end", "after", 2),
    ("ending the parent runs", "benchmark.execution.reconcile:end_parents", "before", 1),
    ("making the table", "benchmark.analysis.comparison:comparison", "before", 1),
)
#: what a worker does with a cohort
WORKER: tuple[Point, ...] = (
    ("loading the images", "benchmark.datasets:load", "before", 1),
    ("in the teacher's second epoch", "benchmark.train.step:CohortStep.__call__", "after", 4),
    ("at the start of an epoch", "benchmark.train.lane:Lane.start_epoch", "before", 8),
    ("mid-epoch", "benchmark.train.step:CohortStep.__call__", "after", 9),
    ("during an evaluation", "benchmark.train.evaluate:evaluate", "before", 5),
    ("before a checkpoint", "benchmark.train.checkpoint:save", "before", 8),
    ("between two checkpoints", "benchmark.train.checkpoint:_keep", "after", 4),
    ("after a checkpoint", "benchmark.train.checkpoint:save", "after", 8),
    ("before the last weights", "benchmark.train.running:Running.complete", "before", 1),
    ("after the last weights", "benchmark.train.running:Running.complete", "after", 1),
)
STUDY: tuple[Point, ...] = (
    ("after asking for trials", "studies.search:Search.ask", "after", 1),
    ("before telling a trial", "studies.search:Search.tell", "before", 3),
    ("after telling a trial", "studies.search:Search.tell", "after", 3),
    ("before the confirmation", "studies.trials:confirm", "before", 1),
    ("writing the results", "studies.tables:contents", "before", 1),
    ("logging the results", "studies.tables:log", "after", 1),
)
REPORT: tuple[Point, ...] = (
    ("gathering the runs", "reports.gather:gather", "after", 1),
    ("compiling the PDF", "reports.pdf:compiled", "before", 1),
    ("logging the report", "benchmark.tracking:Tracker.artifacts", "before", 1),
    ("after logging the report", "benchmark.tracking:Tracker.artifacts", "after", 1),
)


MID_EPOCH = "benchmark.train.step:CohortStep.__call__"
WRITING = "benchmark.files:written_whole"


def faults() -> Iterator[Fault]:
    """Yield every case of the matrix."""
    for point in COMMAND:  # with the training in the command's own process, which costs half
        yield at(point, "inline run", "command", "SIGKILL")
    for number in (1, 7, 9, 14):
        yield at(COMMAND[number], "run", "command", "SIGKILL")
    for action in ("SIGTERM", "SIGINT"):
        for number in (0, 5, 7, 9, 12, 17):
            yield at(COMMAND[number], "run", "command", action)
        yield at(WORKER[3], "run", "cohort worker", action)
    for point in WORKER:
        yield at(point, "run", "cohort worker", "SIGKILL")
    for number in (2, 3, 4, 5):
        yield at(WORKER[number], "run", "cohort worker", "out of memory")
    for action in ("disk full", "read-only"):
        yield Fault("run", "cohort worker", "writing a checkpoint", WRITING, "before", action, 5, "checkpoint")
        yield Fault("run", "cohort worker", "writing the last weights", WRITING, "before", action, 2, "student")
        yield Fault("run", "command", "storing the teacher", WRITING, "before", action, 1, "teachers/")
        yield Fault("run", "command", "writing a table", WRITING, "before", action, 2, "results/")
        yield Fault("run", "command", "storing artifacts", "benchmark.tracking:Tracker.artifacts", "before", action)
    for action in ("clock ahead", "clock behind"):
        yield Fault("run", "command", "surveying", COMMAND[0][1], "before", action)
        yield at(COMMAND[5], "run", "command", action)
        yield Fault("run", "cohort worker", "mid-epoch", MID_EPOCH, "after", action, 9)
        yield Fault("study", "command", "before telling a trial", "studies.search:Search.tell", "before", action, 2)
    for action in ("SIGKILL", "out of memory", "disk full"):
        place = "benchmark.train.view_cache:ViewCache.write"
        yield Fault("cached run", "cohort worker", "filling the view cache", place, "before", action, 2)
    for point in STUDY:
        yield at(point, "study", "command", "SIGKILL")
    for number in (0, 2, 3):
        yield at(STUDY[number], "study", "command", "SIGTERM")
    for action in ("SIGKILL", "SIGTERM"):
        for number in (0, 1):
            yield replace(at(STUDY[number], "study of two", "study worker", action), call=1)
        place = "studies.workers:_print_ended"
        yield Fault("study of two", "command", "watching its workers", place, "before", action, 8)
    yield Fault("study of two", "cohort worker", "mid-epoch", MID_EPOCH, "after", "SIGKILL", 9)
    for point in REPORT:
        yield at(point, "report", "command", "SIGKILL")
    yield at(REPORT[1], "report", "command", "SIGTERM")
    yield Fault("report", "command", "writing the PDF", WRITING, "before", "disk full", 1, ".pdf")


def at(point: Point, command: Command, actor: Actor, action: str) -> Fault:
    """Make the case of one point of a list."""
    words, place, when, call = point
    return Fault(command, actor, words, place, when, action, call)
