"""From a plan to finished runs: what exists is kept, what was cut goes on, the rest is trained; all of it tracked."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from benchmark import curves, environment, results, schedule, teachers
from benchmark.engine.local import CohortCrashed, CohortEnded, EngineEvent, LocalEngine
from benchmark.errors import UserError
from benchmark.estimate import Costs
from benchmark.jobs import CohortJob, EpochDone, LaneDropped, LaneFailed, LaneFinished, LaneJob, Note, Started, Stopped
from benchmark.progress import View
from benchmark.survey import PRUNED, Entry, State, Survey
from benchmark.tracking import Tracker


class Execution:
    """Trains what a survey left open, and follows it into MLflow.

    Runs lie below the MLflow run of their pair; when `parent` names one, all lie below that.

    `on_epoch` is given the row of every epoch that a student trains here, and returns whether the run is to be dropped;
    an entry that said so is not asked again. A run that several entries ask for is dropped when all have said so. The
    entry's state tells what came of it: a lane that was at its end when it was told to go has finished.
    """

    def __init__(
        self,
        survey: Survey,
        tracker: Tracker,
        costs: Costs,
        view: View,
        parent: str | None = None,
        on_epoch: Callable[[Entry, dict[str, float]], bool] | None = None,
    ) -> None:
        self.survey, self.tracker, self.costs, self.view = survey, tracker, costs, view
        self.options, self.plan = survey.options, survey.plan
        #: what went wrong, one line each
        self.problems: list[str] = []
        #: a mistake that the user can put right, which ended a cohort
        self.user_error: str | None = None
        self.was_stopped = False
        self._is_stopping = False
        self._engine = LocalEngine(self.options.workers, self._should_stop)
        self._parent, self._on_epoch = parent, on_epoch
        #: the entry that stands for a run, and all that ask for it, by signature
        self._by_signature: dict[str, Entry] = {}
        self._asking: defaultdict[str, list[Entry]] = defaultdict(list)
        #: of those, the ones that `on_epoch` did not turn away
        self._wanting: dict[str, list[Entry]] = {}
        self._names: Counter[str] = Counter()
        self._experiment = ""
        #: MLflow's parent runs by name
        self._parents: dict[str, str] = {}

    @property
    def parent_run_id(self) -> str | None:
        """The MLflow run that `parent` names; None without one, and before `run`."""
        return None if self._parent is None else self._parents.get(self._parent)

    def run(self) -> None:
        """Train what is left, teachers first; returns when all is done, failed or stopped.

        Raises:
            UserError: when the tracking store fails; every student is saved before.
        """
        try:
            with _on_interrupt(self._interrupt), self.tracker.named_errors():
                self._begin()
                for job, event in self._engine.events():
                    self._handle(job, event)
                for parent in self._parents.values():
                    self.tracker.end(parent, "FINISHED")
        except UserError:
            self._is_stopping = True
            for _ in self._engine.events():  # nobody listens any more, but every student is saved
                pass
            raise
        finally:
            self._engine.close()
            for entry in self._by_signature.values():
                self._release(entry)

    def _begin(self) -> None:
        self._await_teachers()
        for run in self.survey.killed:
            self.tracker.end(run.run_id, "KILLED", failure_reason="its process was killed")
        suite = self.plan.suite
        note = f"{suite.title}. Rebuilds: {', '.join(suite.rebuilds) or 'no published table'}."
        about = {"suite": suite.name, "profile": self.plan.profile or "full", "mlflow.note.content": note}
        self._experiment = self.tracker.experiment(self.plan.slug, about)
        if self._parent is not None:
            self._parents[self._parent] = self.tracker.parent(self._experiment, self._parent, {"suite": suite.name})
        for entry in self.survey.teacher_entries.values():
            if entry.is_open:
                self._submit([entry])
        self._submit_ready()

    def _await_teachers(self) -> None:
        """Wait for teachers that another process is training, then look again."""
        for entry in list(self.survey.teacher_entries.values()):
            if entry.state != "elsewhere" or entry.signature is None:
                continue
            self.view.say(f"{entry.label}: another process is training it; waiting for it")
            lock = FileLock(self.options.lock_file(entry.signature))
            while not self._should_stop():
                try:
                    lock.acquire(timeout=1)
                except Timeout:
                    continue
                lock.release()
                break
            self.survey.look()

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        self._is_stopping = True  # no more than this in a signal handler

    def _should_stop(self) -> bool:
        if self._is_stopping and not self.was_stopped:
            self.was_stopped = True
            self.view.say("Stopping: every student is saved at its last finished epoch ...")
        return self._is_stopping

    # -- cohorts -----------------------------------------------------------------------------------------------------

    def _submit_ready(self) -> None:
        ready = [
            entry
            for entry in self.survey.entries
            if entry.state in ("new", "resume") and entry.signature not in self._by_signature
        ]
        for entry in ready:
            assert entry.signature is not None
            self._asking[entry.signature].append(entry)
            self._wanting[entry.signature] = self._asking[entry.signature]
        for group in cohorts(distinct(ready), self.options.workers, self.costs):
            self._submit(group)

    def _set(self, entry: Entry, state: State, reason: str = "") -> None:
        """Give a run's state to every entry that asks for it."""
        assert entry.signature is not None
        for one in self._asking.get(entry.signature) or [entry]:
            one.state, one.reason = state, reason
            one.run_id, one.epochs_done = entry.run_id, entry.epochs_done

    def _submit(self, group: Sequence[Entry]) -> None:
        lanes = [lane for lane in map(self._take, group) if lane is not None]
        if not lanes:
            return
        teacher = next((e.config.teacher for e in group if e.config.teacher is not None), None)
        self._engine.submit(
            CohortJob(
                name=self._name(group),
                lanes=tuple(lanes),
                teacher=None if teacher is None else self.survey.teachers[teacher],
                data_root=self.options.data_root,
                cache=self.options.cache,
                cache_gb=self.options.cache_gb,
                device=self.options.device,
                threads=self.options.threads,
            )
        )

    def _take(self, entry: Entry) -> LaneJob | None:
        """Lock a run for this process, or leave it when another has it or has finished it meanwhile."""
        assert entry.signature is not None
        path = self.options.lock_file(entry.signature)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._set(entry, "elsewhere")
            self.view.say(f"{entry.label}: another process is training this run; left to it")
            return None
        if entry.role == "student" and (done := self.tracker.finished(entry.signature)) is not None:
            lock.release()
            entry.run_id = done
            self._set(entry, "finished")
            return None
        entry.lock = lock
        self._by_signature[entry.signature] = entry
        folder = self.options.work(entry.signature)
        return LaneJob(entry.signature, entry.config, folder / "checkpoint", folder / "student.safetensors")

    def _release(self, entry: Entry) -> None:
        if entry.lock is not None:
            entry.lock.release()
            entry.lock = None

    def _name(self, group: Sequence[Entry]) -> str:
        if group[0].role == "teacher":
            return group[0].label
        pairs = sorted({entry.pair_name for entry in group if entry.config.teacher is not None})
        alone = sorted({entry.pair_name for entry in group})
        if len(pairs or alone) == 1:
            name = (pairs or alone)[0]
        else:
            name = f"{pairs[0].partition(' -> ')[0]} -> {len(pairs)} networks" if pairs else f"{len(alone)} alone"
        name = f"{name}, seed {group[0].config.repetition}"
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}, part {self._names[name]}"

    # -- events ------------------------------------------------------------------------------------------------------

    def _handle(self, job: CohortJob, event: EngineEvent) -> None:
        if isinstance(event, CohortEnded | CohortCrashed):
            self.view.ended(job)
            if isinstance(event, CohortCrashed):
                self._crashed(job, event)
            return
        self.view.show(job, event)
        if isinstance(event, Note):
            self.view.say(f"{job.name}: {event.text}")
        elif isinstance(event, Started):
            for lane in job.lanes:
                entry = self._by_signature[lane.signature]
                self._open(entry, job)
                self._set(entry, entry.state)
        elif isinstance(event, EpochDone):
            for signature, row in event.rows.items():
                self._log(self._by_signature[signature], [row])
                self._ask(job, signature, row)
        elif isinstance(event, LaneFinished):
            self._finished(self._by_signature[event.signature], event)
        elif isinstance(event, LaneFailed):
            self._failed(self._by_signature[event.signature], event)
        elif isinstance(event, LaneDropped):
            self._dropped(self._by_signature[event.signature], event)
        elif isinstance(event, Stopped):
            for entry in self._unfinished(job):
                entry.epochs_done = event.epochs_done
                self._interrupted(entry, "stopped by the user")

    def _unfinished(self, job: CohortJob) -> list[Entry]:
        entries = [self._by_signature[lane.signature] for lane in job.lanes]
        return [entry for entry in entries if entry.state in ("new", "resume")]

    def _open(self, entry: Entry, job: CohortJob) -> None:
        """Make the run in MLflow, or set one that was interrupted to RUNNING again."""
        assert entry.signature is not None
        config, teacher = entry.config, entry.config.teacher
        about = {"pair": entry.pair_name, "suite": self.plan.suite.name}
        parent = self._parent or entry.pair_name
        if parent not in self._parents:
            self._parents[parent] = self.tracker.parent(self._experiment, parent, about)
        where = {
            "cohort": job.name,
            "device": environment.describe_device(torch.device(job.device)),
            "threads": str(job.threads),
            "runs_folder": self.options.identity(),
        }
        if entry.run_id is not None:
            moved = {"mlflow.parentRunId": self._parents[parent]} if self._parent else {}
            self.tracker.reopen(entry.run_id, {**where, **moved, **entry.tags})
            entry.logged = self.tracker.epochs_logged(entry.run_id)
            if job.device != "cpu":  # epochs since the checkpoint are trained again, to slightly other numbers
                entry.logged = {epoch for epoch in entry.logged if epoch <= entry.epochs_done}
            return
        tags = {**where, **about, "profile": self.plan.profile or "full", **entry.tags}
        if teacher is not None:
            tags |= {"teacher": teacher, "teacher_checksum": self.survey.teachers[teacher].checksum}
        entry.run_id = self.tracker.start(
            self._experiment,
            config,
            entry.signature,
            self.survey.data,
            role=entry.role,
            name=entry.label if entry.role == "teacher" else entry.title or f"{config.method} seed {config.repetition}",
            parent=self._parents[parent],
            tags=tags,
        )

    def _log(self, entry: Entry, rows: Sequence[dict[str, float]]) -> None:
        assert entry.run_id is not None
        new = [row for row in rows if int(row["epoch"]) not in entry.logged]
        self.tracker.log_epochs(entry.run_id, new)
        entry.logged |= {int(row["epoch"]) for row in new}

    def _finished(self, entry: Entry, event: LaneFinished) -> None:
        assert entry.run_id is not None
        assert entry.signature is not None
        self._log(entry, event.history)
        figures = {**results.selections(event.history), "final/train_seconds": event.train_seconds}
        if entry.role == "teacher":
            self._store_teacher(entry, event, figures)
        self.tracker.summarise(entry.run_id, figures)
        classes = zip(self.survey.data.classes, event.per_class, strict=True)
        per_class = "\n".join(["class,accuracy", *(f'"{name}",{value:.4f}' for name, value in classes)])
        self.tracker.artifacts(
            entry.run_id,
            {
                "config.json": json.dumps(entry.config.model_dump(mode="json"), indent=2).encode(),
                "per_class_accuracy.csv": per_class.encode(),
                "training_curves.png": curves.training_curves(event.history, entry.label),
                "student.safetensors": event.weights,
            },
        )
        self.tracker.end(entry.run_id, "FINISHED")
        self._set(entry, "finished")
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        self._release(entry)
        if entry.role == "teacher":
            self.survey.settle_waiting()
            self._submit_ready()

    def _store_teacher(self, entry: Entry, event: LaneFinished, figures: dict[str, float]) -> None:
        folder, manifest = teachers.store(
            self.options.teachers,
            self.survey.data,
            entry.config.student,
            load_file(event.weights),
            test_top1=figures["final/last"],
            best_test_top1=figures["final/best_test"],
            device=environment.describe_device(torch.device(self.options.device)),
            epochs=entry.config.recipe.epochs,
            origin="trained",
            signature=entry.signature,
            mlflow_run=entry.run_id,
        )
        self.survey.use_teacher(entry.config.student, folder, manifest)
        self.view.say(f"{entry.label}: {manifest.test_top1:.2f}% on the test set, stored")

    def _failed(self, entry: Entry, event: LaneFailed) -> None:
        assert entry.run_id is not None
        self._log(entry, event.history)
        self._set(entry, "failed", event.reason)
        self.tracker.end(entry.run_id, "FAILED", failure="final" if event.final else "retry",
                         failure_reason=event.reason)  # fmt: skip
        self._release(entry)
        self.problems.append(f"{entry.label}: {event.reason}")
        self.view.say(f"FAILED {entry.label}: {event.reason}")
        if entry.role == "teacher":
            self.survey.settle_waiting()  # its students fail with it

    def _ask(self, job: CohortJob, signature: str, row: dict[str, float]) -> None:
        """Show an epoch to whoever follows the run, and drop it once nobody wants it."""
        wanting = self._wanting.get(signature)
        if self._on_epoch is None or not wanting:  # nobody follows, or it is a teacher, or it is leaving
            return
        self._wanting[signature] = [entry for entry in wanting if not self._on_epoch(entry, row)]
        if not self._wanting[signature]:
            self._engine.drop(job, signature)

    def _dropped(self, entry: Entry, event: LaneDropped) -> None:
        assert entry.run_id is not None
        assert entry.signature is not None
        self._log(entry, event.history)
        reason = f"pruned after epoch {len(event.history)} of {entry.config.recipe.epochs}"
        self.tracker.end(entry.run_id, "KILLED", failure=PRUNED, failure_reason=reason)
        self._set(entry, "dropped", reason)
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        self._release(entry)

    def _crashed(self, job: CohortJob, event: CohortCrashed) -> None:
        self.view.say(f"{job.name}: stopped: {event.reason}")
        if event.is_user_error:
            self.user_error = self.user_error or event.reason
        else:
            self.problems.append(f"{job.name}: {event.reason}")
        for entry in self._unfinished(job):
            self._interrupted(entry, event.reason)

    def _interrupted(self, entry: Entry, reason: str) -> None:
        self._set(entry, "resume", reason)
        if entry.run_id is not None:
            self.tracker.end(entry.run_id, "KILLED", failure="retry", failure_reason=reason)
        self._release(entry)


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Return the first entry of every run, in order; a run that waits for its teacher is known by its settings."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.signature or entry.config.signature("", entry.config.teacher), entry)
    return list(found.values())


def cohorts(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
    """Group entries into cohorts of about equal load for the workers, the costliest first."""
    groups = schedule.cohorts(entries, lambda e: e.config, lambda e: e.epochs_done)
    return schedule.balance(groups, workers, lambda group: _cost(group, costs))


def _cost(group: Sequence[Entry], costs: Costs) -> float:
    return costs.cohort_s([entry.config for entry in group], group[0].epochs_done)


def estimate_s(survey: Survey, costs: Costs) -> float:
    """Return about how long an execution takes, from measured steps: teachers first, then their students."""
    loads = [0.0] * survey.options.workers

    def add(seconds: float, not_before: float = 0.0) -> None:
        place = loads.index(min(loads))
        loads[place] = max(loads[place], not_before) + seconds

    for entry in survey.teacher_entries.values():
        if entry.is_open:
            add(_cost([entry], costs))
    teachers_done = max(loads)
    for group in cohorts(distinct(e for e in survey.entries if e.is_open), survey.options.workers, costs):
        needs_new_teacher = any(entry.state == "waiting" for entry in group)
        add(_cost(group, costs), teachers_done if needs_new_teacher else 0.0)
    return max(loads)


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
