"""From a plan to finished runs: what exists is kept, what was cut goes on, the rest is trained; all of it tracked."""

from __future__ import annotations

import json
import platform
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from benchmark import checkpoint, curves, environment, results, schedule, teachers
from benchmark.batches import splits
from benchmark.config import RunConfig
from benchmark.datasets.base import DataSet
from benchmark.engine.local import CohortCrashed, CohortEnded, EngineEvent, LocalEngine
from benchmark.estimate import Costs
from benchmark.jobs import (
    CohortJob,
    EpochDone,
    LaneFailed,
    LaneFinished,
    LaneJob,
    Started,
    Stopped,
    TeacherFile,
)
from benchmark.progress import View
from benchmark.suite import Plan, PlannedRun
from benchmark.tracking import Role, Tracked, Tracker

State = Literal["finished", "failed", "resume", "todo", "waiting", "elsewhere"]


@dataclass(frozen=True)
class Options:
    """Where things are and how many run at once; nothing here changes a number."""

    runs: Path
    data_root: Path
    device: str = "cpu"
    workers: int = 1
    threads: int = 1
    retry_failed: bool = False

    @property
    def teachers(self) -> Path:
        """Folder of the stored teachers."""
        return self.runs / "teachers"

    @property
    def cache(self) -> Path:
        """Folder of decoded images."""
        return self.runs / "cache"


@dataclass
class Entry:
    """One run of the plan, or a teacher, and where it stands."""

    config: RunConfig
    role: Role
    label: str
    pair_name: str
    #: None while the teacher it needs has no weights yet
    signature: str | None = None
    state: State = "waiting"
    epochs_done: int = 0
    run_id: str | None = None
    reason: str = ""
    logged: set[int] = field(default_factory=set)
    lock: FileLock | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something left to train."""
        return self.state in ("todo", "resume", "waiting")


class Execution:
    """Takes a plan to its end. `survey` looks, `run` trains."""

    def __init__(self, plan: Plan, options: Options, data: DataSet, tracker: Tracker | None, costs: Costs) -> None:
        self.plan, self.options, self.data, self.tracker, self.costs = plan, options, data, tracker, costs
        self.teachers: dict[str, TeacherFile] = {}
        self.teacher_accuracy: dict[str, float] = {}
        self.teacher_entries: dict[str, Entry] = {}
        self.entries = [_entry(run) for run in plan.runs]
        self.problems: list[str] = []
        self.user_error: str | None = None
        self.was_stopped = False
        self._engine: LocalEngine | None = None
        self._experiment: str | None = None
        self._by_signature: dict[str, Entry] = {}
        self._names: Counter[str] = Counter()
        #: MLflow's parent runs by pair
        self._parents: dict[str, str] = {}

    # -- what exists -------------------------------------------------------------------------------------------------

    def survey(self) -> None:
        """Find the state of every run and teacher; marks runs that were killed. Trains nothing.

        Raises:
            UserError: for a damaged checkpoint, teacher or manifest, before anything is trained or overwritten.
        """
        tracked = self._tracked()
        for model, config in self.plan.teachers.items():
            signature = config.signature(self.data.digest, None)
            found = teachers.find(self.options.teachers, self.data, model, signature)
            if found is not None:
                self._use_teacher(model, *found)
                continue
            entry = Entry(config, "teacher", f"teacher {model}", "teachers")
            self._settle(entry, None, tracked)
            if entry.state == "finished":  # its weights are gone: train them again
                entry.state, entry.run_id = "todo", None
            self.teacher_entries[model] = entry
        for entry in self.entries:
            self._settle_if_possible(entry, tracked)

    def _tracked(self) -> dict[str, Tracked]:
        if self.tracker is None:
            return {}
        best: dict[str, Tracked] = {}
        for run in self.tracker.runs_on(self.data.digest):
            if run.status == "RUNNING" and run.tags.get("host") == platform.node() and self._is_free(run.signature):
                self.tracker.end(run.run_id, "KILLED", failure_reason="its process was killed")
            if run.signature not in best or run.status == "FINISHED":
                best[run.signature] = run
        return best

    def _is_free(self, signature: str) -> bool:
        lock = self._lock(signature)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _lock(self, signature: str) -> FileLock:
        folder = self.options.runs / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{signature}.lock")

    def _use_teacher(self, model: str, folder: Path, manifest: teachers.Manifest) -> None:
        file = manifest.file(folder)
        teachers.load_weights(file)  # damaged weights are refused here, before any training
        self.teachers[model] = file
        self.teacher_accuracy[model] = manifest.test_top1

    def _settle_if_possible(self, entry: Entry, tracked: dict[str, Tracked]) -> None:
        teacher = entry.config.teacher
        if teacher is None or teacher in self.teachers:
            self._settle(entry, None if teacher is None else self.teachers[teacher].checksum, tracked)

    def _settle(self, entry: Entry, teacher_checksum: str | None, tracked: dict[str, Tracked]) -> None:
        """Give an entry its signature and state."""
        entry.signature = entry.config.signature(self.data.digest, teacher_checksum)
        known = tracked.get(entry.signature)
        entry.state = "todo"
        if known is not None:
            entry.run_id = known.run_id
            if known.status == "FINISHED":
                entry.state = "finished"
            elif known.final_failure and not self.options.retry_failed:
                entry.state, entry.reason = "failed", known.tags.get("failure_reason", "")
            elif known.status == "RUNNING" and not self._is_free(entry.signature):
                entry.state = "elsewhere"
        path = self._folder(entry) / "checkpoint"
        if entry.state == "todo" and path.exists():
            entry.epochs_done = int(checkpoint.load(path)["epochs_done"])
            entry.state = "resume"
        if entry.state == "todo" and known is not None and known.status == "FAILED":
            entry.run_id = None  # it starts from nothing: the failed run stays on record, a new one is made

    def _folder(self, entry: Entry) -> Path:
        return self.options.runs / "work" / str(entry.signature)

    # -- how long ----------------------------------------------------------------------------------------------------

    def estimate_s(self) -> float:
        """Return about how long `run` takes, from measured steps."""
        teachers_s = [self.costs.cohort_s([e.config], e.epochs_done) for e in self.teacher_entries.values()]
        groups = self._cohorts([entry for entry in self.entries if entry.is_open])
        loads = [0.0] * self.options.workers
        for seconds in teachers_s:
            loads[loads.index(min(loads))] += seconds
        longest_teacher = max(loads, default=0.0)
        for group in groups:
            load = min(loads)
            needs_teacher = any(e.config.teacher in self.teacher_entries for e in group)
            start = max(load, longest_teacher) if needs_teacher else load
            loads[loads.index(load)] = start + self._cost(group)
        return max(loads, default=0.0)

    def _cost(self, group: Sequence[Entry]) -> float:
        return self.costs.cohort_s([entry.config for entry in group], group[0].epochs_done)

    def _cohorts(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        groups = schedule.cohorts(entries, lambda e: e.config, lambda e: e.epochs_done)
        return schedule.balance(groups, self.options.workers, self._cost)

    # -- training ----------------------------------------------------------------------------------------------------

    def run(self, view: View) -> None:
        """Train what is left, teachers first; returns when all is done, failed or stopped."""
        if self.tracker is None:
            raise ValueError("a run needs a tracker")
        suite = self.plan.suite
        note = f"{suite.title}. Rebuilds: {', '.join(suite.rebuilds) or 'no published table'}."
        about = {"suite": suite.name, "profile": self.plan.profile or "full", "mlflow.note.content": note}
        self._experiment = self.tracker.experiment(self.plan.slug, about)
        engine = self._engine = LocalEngine(self.options.workers)
        try:
            with _on_interrupt(lambda: self._stop(view)):
                for entry in self.teacher_entries.values():
                    if entry.is_open:
                        self._submit([entry], view)
                self._submit_ready(view)
                for job, event in engine.events():
                    self._handle(job, event, view)
        finally:
            engine.close()
            for entry in self._by_signature.values():
                self._release(entry)
            for parent in self._parents.values():
                self.tracker.end(parent, "FINISHED")

    def where(self) -> str:
        """Return where a person finds the runs."""
        experiment = None if self.tracker is None else self.tracker.experiments().get(self.plan.slug)
        if self.tracker is None or experiment is None:
            return "none is tracked yet"
        address = self.tracker.ui_address(experiment)
        return f"`make ui`, then {address}" if self.tracker.is_local else address

    def _stop(self, view: View) -> None:
        if not self.was_stopped:
            self.was_stopped = True
            view.say("Stopping: every student is saved at its last finished epoch ...")
            assert self._engine is not None
            self._engine.stop()

    def _submit_ready(self, view: View) -> None:
        ready = [
            entry
            for entry in self.entries
            if entry.state in ("todo", "resume") and entry.signature not in self._by_signature
        ]
        for group in self._cohorts(ready):
            self._submit(group, view)

    def _submit(self, group: Sequence[Entry], view: View) -> None:
        lanes = []
        for entry in group:
            assert entry.signature is not None
            lock = self._lock(entry.signature)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                entry.state = "elsewhere"
                view.say(f"{entry.label}: another process is training this run; left to it")
                continue
            entry.lock = lock
            self._by_signature[entry.signature] = entry
            folder = self._folder(entry)
            lanes.append(LaneJob(entry.signature, entry.config, folder / "checkpoint", folder / "student.safetensors"))
        if not lanes:
            return
        teacher = next((self.teachers[e.config.teacher] for e in group if e.config.teacher is not None), None)
        job = CohortJob(
            name=self._name(group),
            lanes=tuple(lanes),
            teacher=teacher,
            data_root=self.options.data_root,
            cache=self.options.cache,
            device=self.options.device,
            threads=self.options.threads,
            epochs=group[0].config.recipe.epochs,
        )
        assert self._engine is not None
        self._engine.submit(job)

    def _name(self, group: Sequence[Entry]) -> str:
        if group[0].role == "teacher":
            return group[0].label
        first = next((entry for entry in group if entry.config.teacher is not None), group[0])
        name = f"{first.pair_name}, seed {first.config.repetition}"
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}, part {self._names[name]}"

    def _handle(self, job: CohortJob, event: EngineEvent, view: View) -> None:
        if isinstance(event, CohortEnded):
            view.ended(job)
            return
        if isinstance(event, CohortCrashed):
            view.ended(job)
            self._crashed(job, event, view)
            return
        view.show(job, event)
        if isinstance(event, Started):
            for lane in job.lanes:
                self._open(self._by_signature[lane.signature], job)
        elif isinstance(event, EpochDone):
            for signature, row in event.rows.items():
                self._log(self._by_signature[signature], [row])
        elif isinstance(event, LaneFinished):
            self._finished(self._by_signature[event.signature], event, view)
        elif isinstance(event, LaneFailed):
            self._failed(self._by_signature[event.signature], event, view)
        elif isinstance(event, Stopped):
            for lane in job.lanes:
                entry = self._by_signature[lane.signature]
                if entry.state in ("todo", "resume"):
                    entry.epochs_done = event.epochs_done
                    self._interrupted(entry, "stopped by the user")

    def _open(self, entry: Entry, job: CohortJob) -> None:
        assert self.tracker is not None and self._experiment is not None and entry.signature is not None
        where = {
            "cohort": job.name,
            "device": environment.describe_device(torch.device(job.device)),
            "threads": str(job.threads),
        }
        if entry.run_id is not None:
            self.tracker.reopen(entry.run_id, where)
            entry.logged = self.tracker.epochs_logged(entry.run_id)
            return
        config, teacher = entry.config, entry.config.teacher
        tags = {**where, "suite": self.plan.suite.name, "profile": self.plan.profile or "full", "pair": entry.pair_name}
        if teacher is not None:
            tags |= {"teacher": teacher, "teacher_checksum": self.teachers[teacher].checksum}
        about = {"pair": entry.pair_name, "suite": self.plan.suite.name}
        if entry.pair_name not in self._parents:
            self._parents[entry.pair_name] = self.tracker.parent(self._experiment, entry.pair_name, about)
        entry.run_id = self.tracker.start(
            self._experiment,
            config,
            entry.signature,
            self.data,
            role=entry.role,
            name=entry.label if entry.role == "teacher" else f"{config.method} seed {config.repetition}",
            parent=self._parents[entry.pair_name],
            tags=tags,
        )

    def _log(self, entry: Entry, rows: Sequence[dict[str, float]]) -> None:
        assert self.tracker is not None and entry.run_id is not None
        new = [row for row in rows if int(row["epoch"]) not in entry.logged]
        self.tracker.log_epochs(entry.run_id, new)
        entry.logged |= {int(row["epoch"]) for row in new}

    def _finished(self, entry: Entry, event: LaneFinished, view: View) -> None:
        assert self.tracker is not None and entry.run_id is not None
        self._log(entry, event.history)
        figures = {**results.selections(event.history), "final/train_seconds": event.train_seconds}
        if entry.role == "teacher":
            self._store_teacher(entry, event, figures, view)
        self.tracker.summarise(entry.run_id, figures)
        config = json.dumps(entry.config.model_dump(mode="json"), indent=2)
        per_class = "\n".join(
            [
                "class,accuracy",
                *(f'"{name}",{value:.4f}' for name, value in zip(self.data.classes, event.per_class, strict=True)),
            ]
        )
        self.tracker.artifacts(
            entry.run_id,
            {
                "config.json": config.encode(),
                "per_class_accuracy.csv": per_class.encode(),
                "training_curves.png": curves.training_curves(event.history, entry.label),
                "student.safetensors": event.weights,
            },
        )
        self.tracker.end(entry.run_id, "FINISHED", failure="", failure_reason="")
        entry.state = "finished"
        folder = self._folder(entry)
        for path in (folder / "checkpoint", folder / "student.safetensors"):
            path.unlink(missing_ok=True)
        folder.rmdir()
        self._release(entry)
        if entry.role == "teacher":
            tracked = self._tracked()
            for waiting in self.entries:
                if waiting.state == "waiting":
                    self._settle_if_possible(waiting, tracked)
            self._submit_ready(view)

    def _store_teacher(self, entry: Entry, event: LaneFinished, figures: dict[str, float], view: View) -> None:
        folder, manifest = teachers.store(
            self.options.teachers,
            self.data,
            entry.config.student,
            load_file(event.weights),
            splits(self.data, entry.config.data).test,
            environment.describe_device(torch.device(self.options.device)),
            best_test_top1=figures["final/best_test"],
            epochs=entry.config.recipe.epochs,
            origin="trained",
            signature=entry.signature,
            mlflow_run=entry.run_id,
        )
        self._use_teacher(entry.config.student, folder, manifest)
        view.say(f"{entry.label}: {manifest.test_top1:.2f}% on the test set, stored")

    def _failed(self, entry: Entry, event: LaneFailed, view: View) -> None:
        assert self.tracker is not None and entry.run_id is not None
        self._log(entry, event.history)
        entry.state, entry.reason = "failed", event.reason
        self.tracker.end(
            entry.run_id, "FAILED", failure="final" if event.final else "retry", failure_reason=event.reason[:4000]
        )
        self._release(entry)
        self.problems.append(f"{entry.label}: {event.reason}")
        view.say(f"FAILED {entry.label}: {event.reason}")

    def _crashed(self, job: CohortJob, event: CohortCrashed, view: View) -> None:
        view.say(f"{job.name}: stopped: {event.reason}")
        if event.is_user_error:
            self.user_error = self.user_error or event.reason
        else:
            self.problems.append(f"{job.name}: {event.reason}")
        for lane in job.lanes:
            entry = self._by_signature[lane.signature]
            if entry.state in ("todo", "resume"):
                self._interrupted(entry, event.reason)

    def _interrupted(self, entry: Entry, reason: str) -> None:
        assert self.tracker is not None
        entry.state = "resume"
        if entry.run_id is not None:
            self.tracker.end(entry.run_id, "KILLED", failure="retry", failure_reason=reason[:4000])
        self._release(entry)

    def _release(self, entry: Entry) -> None:
        if entry.lock is not None:
            entry.lock.release()
            entry.lock = None


def _entry(run: PlannedRun) -> Entry:
    config = run.config
    pair = f"{config.teacher} -> {config.student}" if config.teacher else f"{config.student} alone"
    return Entry(config, "student", run.label, pair)


@contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one ends the process as usual."""

    def handle(number: int, frame: FrameType | None) -> None:
        for which, old in before.items():
            signal.signal(which, old)
        stop()

    before = {which: signal.signal(which, handle) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, old in before.items():
            signal.signal(which, old)
