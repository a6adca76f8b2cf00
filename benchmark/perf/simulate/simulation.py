"""Execute a whole plan on simulated workers, and see how well it kept them busy."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import save
from torch import Tensor

from benchmark import files
from benchmark.datasets.base import DataSet
from benchmark.execution import cohorts
from benchmark.execution.estimate import Costs, cohorts_of
from benchmark.execution.execute import Execution, Parts
from benchmark.execution.hold import Hold
from benchmark.execution.options import NO_CLAIMS, Options
from benchmark.execution.record import Record
from benchmark.execution.survey import Entry, Survey
from benchmark.perf.simulate.engine import Clock, Machine, SimulatedEngine, Tally
from benchmark.plan.resolve import Plan
from benchmark.tracking import Tracked, Tracker, Unended
from benchmark.train import teacher_store
from benchmark.train.messages import CohortJob, Event, LaneFailed, LaneFinished, Started
from benchmark.train.teacher_store import Manifest

#: how cohorts are made of the runs that are ready: (runs, workers, costs) -> cohorts
Packing = Callable[[Sequence[Entry], int, Costs], list[list[Entry]]]


class _Store(Tracker):
    """A tracking store in memory that knows which runs are finished, and nothing else."""

    def __init__(self) -> None:
        self.uri = "memory"
        self.finished: dict[str, Tracked] = {}

    def runs_with(self, signatures: Iterable[str], anew: bool = False) -> list[Tracked]:
        """Find the finished ones of these runs."""
        return [self.finished[one] for one in signatures if one in self.finished]

    def unended(self, runs_folder: str | None = None) -> list[Unended]:
        """Return none: what a simulation begins, it ends."""
        return []


class _Record(Record):
    """A record of who is finished; MLflow's time is not a part of a simulation."""

    def begin(self) -> None:
        """Record nothing."""

    end = begin

    def started(self, entry: Entry, job: CohortJob, event: Started) -> None:
        """Record nothing."""

    def finished(self, entry: Entry, event: LaneFinished, figures: Mapping[str, float], when_ms: int) -> None:
        """Have a run on record as finished."""
        assert entry.signature is not None and isinstance(self.tracker, _Store)
        self.tracker.finished[entry.signature] = Tracked(
            entry.signature, "", entry.signature, "FINISHED", False, {}, figures, {}, 0
        )

    def failed(self, entry: Entry, event: LaneFailed, when_ms: int) -> None:
        """Record nothing."""

    def interrupted(self, entry: Entry, reason: str) -> None:
        """Record nothing."""


def _hold(options: Options, signature: str) -> Hold:
    """Hold a run without a lock: nobody else is there."""
    return Hold(signature, FileLock(options.lock_file(signature)), None)


def _store_teacher(
    teachers: Path, data: DataSet, model: str, weights: dict[str, Tensor], *, test_top1: float, **about: Any
) -> tuple[Path, Manifest]:
    """Store weights of a simulated teacher, which fit no network."""
    content = save(weights)
    manifest = Manifest(
        model=model, dataset=data.name, data_digest=data.digest, num_classes=data.num_classes,
        image_size=data.image_size, checksum=hashlib.sha256(content).hexdigest(), test_top1=test_top1,
        git_commit="", git_dirty=False, versions={}, created="", **about,
    )  # fmt: skip
    folder = teacher_store.folder_of(teachers, data)
    weights_file = manifest.file(folder).path
    files.write(weights_file, content)
    files.write(weights_file.with_suffix(".json"), manifest.text.encode())
    return folder, manifest


class _Quiet:
    """A view of nothing."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def say(self, line: str) -> None:
        """Show nothing."""

    def show(self, job: CohortJob, event: Event) -> None:
        """Show nothing."""

    def ended(self, job: CohortJob) -> None:
        """Show nothing."""


@dataclass(frozen=True)
class Bound:
    """What no schedule can beat, in seconds: all work with every teacher's pass shared as far as can be, and the
    longest teacher with its longest student.
    """

    work_s: float
    chain_s: float

    def makespan_s(self, workers: int) -> float:
        """The least time that the workers need."""
        return max(self.work_s / workers, self.chain_s)


@dataclass(frozen=True)
class Outcome:
    """One simulated execution."""

    workers: int
    makespan_s: float
    tally: Tally
    #: CPU-seconds of making cohorts, and of all of the command but tracking
    planner_s: float
    command_s: float
    #: how often the command was given until everything was finished
    num_commands: int

    @property
    def utilisation(self) -> float:
        """Share of the workers' time in which they trained something that counts."""
        return self.tally.trained_s / (self.workers * self.makespan_s)


def bound_of(plan: Plan, data: DataSet, costs: Costs) -> Bound:
    """Compute the work of a plan and its longest chain."""
    teachers = {model: costs.cohort_s([config]) for model, config in plan.teachers.items()}
    configs = list({run.config.model_dump_json(): run.config for run in plan.runs}.values())
    packed = sum(costs.cohort_s(group) for group in cohorts.group(configs, lambda config: config, lambda config: 0))
    unlike = {(one.teacher, one.student, one.method, one.recipe.epochs): one for one in configs}
    chain_s = max(costs.cohort_s([one]) + teachers.get(one.teacher or "", 0.0) for one in unlike.values())
    return Bound(packed + sum(teachers.values()), max([chain_s, *teachers.values()]))


def simulate(
    plan: Plan,
    data: DataSet,
    costs: Costs,
    workers: int,
    folder: Path,
    machine: Machine,
    seed: int,
    packing: Packing = cohorts_of,
) -> Outcome:
    """Execute a plan in an empty folder, again and again until all its runs are finished."""
    options = Options(runs=folder, data_root=folder, workers=workers, claims=NO_CLAIMS, force_bf16=True)
    store, clock, tally, planner_s = _Store(), Clock(), Tally(), [0.0]

    def timed(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
        started = time.thread_time()
        found = packing(entries, workers, costs)
        planner_s[0] += time.thread_time() - started
        return found

    started, num_commands, is_done = time.process_time(), 0, False
    while not is_done:
        survey = Survey(plan, options, data, store)
        survey.look()
        engine = partial(
            _engine, costs=costs, machine=machine, clock=clock, tally=tally, seed=f"{seed}, {num_commands}"
        )
        execution = Execution(
            survey, store, costs, _Quiet(), parts=Parts(engine, _Record, timed, _hold, _store_teacher)
        )
        execution.run()
        if execution.was_stopped:  # it has taken the user's interrupt for its own
            raise KeyboardInterrupt
        num_commands += 1
        is_done = not execution.left()
    return Outcome(workers, clock.now, tally, planner_s[0], time.process_time() - started, num_commands)


def _engine(options: Options, should_stop: Callable[[], bool], **simulated: object) -> SimulatedEngine:
    return SimulatedEngine(options.workers, should_stop, **simulated)  # type: ignore[arg-type]
