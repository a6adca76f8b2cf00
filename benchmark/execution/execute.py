"""Execute a plan: keep finished runs, resume interrupted ones, train the rest, and track all of them."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from benchmark import machine, results
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.estimate import Costs, cohorts_of, distinct, refuse_slow_bf16
from benchmark.execution.progress import View
from benchmark.execution.record import Record
from benchmark.execution.survey import Entry, State, Survey
from benchmark.tracking import Tracker
from benchmark.train import teacher_store
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    EpochDone,
    LaneDropped,
    LaneFailed,
    LaneFinished,
    LaneJob,
    Note,
    Started,
    Stopped,
)


class Execution:
    """Training of a survey's open runs, recorded in MLflow: below the run of their pair, or all below `parent`.

    `on_epoch` receives the row of every epoch that a student trains here, and returns whether to drop the run; for an
    entry that it drops, it is not called again. A run that several entries ask for is dropped when it is dropped for
    all of them. The entry's state tells the outcome: a lane that was at its end by then has finished.
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
        #: failures and crashes, one line each
        self.problems: list[str] = []
        #: an error that the user can fix, which ended a cohort
        self.user_error: str | None = None
        self.was_stopped = False
        self._is_stopping = False
        self._engine = engines.registry.get(self.options.engine)(self.options.workers, self._should_stop)
        self._record = Record(survey, tracker, parent)
        self._on_epoch = on_epoch
        #: by signature: the entry that represents a run, and all entries that ask for it
        self._by_signature: dict[str, Entry] = {}
        self._asking: defaultdict[str, list[Entry]] = defaultdict(list)
        #: the asking entries for which `on_epoch` did not drop the run
        self._wanting: dict[str, list[Entry]] = {}
        self._names: Counter[str] = Counter()

    @property
    def parent_run_id(self) -> str | None:
        """Id of the MLflow run that `parent` names; None without `parent`, and before `run`."""
        return self._record.parent_run_id

    def run(self) -> None:
        """Train the open runs, teachers first; return when all are finished, failed or stopped.

        Raises:
            UserError: when the tracking store fails; every student is saved first.
        """
        try:
            with machine.on_interrupt(self._interrupt), self.tracker.named_errors():
                self._begin()
                for job, event in self._engine.events():
                    self._handle(job, event)
                self._record.end()
        except UserError:
            self._is_stopping = True
            for _ in self._engine.events():  # events are no longer recorded, but every student is saved
                pass
            raise
        finally:
            self._engine.close()
            for entry in self._by_signature.values():
                self._release(entry)

    def _begin(self) -> None:
        refuse_slow_bf16(self.survey)
        self._await_teachers()
        self._record.begin()
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
        self._is_stopping = True  # a signal handler does no more than this

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
        for group in cohorts_of(distinct(ready), self.options.workers, self.costs):
            self._submit(group)

    def _set(self, entry: Entry, state: State, reason: str = "") -> None:
        """Give a run's state to every entry that asks for it."""
        assert entry.signature is not None
        for asking in self._asking.get(entry.signature) or [entry]:
            asking.state, asking.reason = state, reason
            asking.run_id, asking.epochs_done = entry.run_id, entry.epochs_done

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
        """Lock a run for this process; leave it when another process trains it or has finished it meanwhile."""
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
                self._record.started(entry, job)
                self._set(entry, entry.state)
        elif isinstance(event, EpochDone):
            for signature, row in event.rows.items():
                self._record.epochs(self._by_signature[signature], [row])
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

    def _finished(self, entry: Entry, event: LaneFinished) -> None:
        assert entry.signature is not None
        self._record.epochs(entry, event.history)
        figures = {**results.selections(event.history), "final/train_seconds": event.train_seconds}
        if entry.role == "teacher":
            self._store_teacher(entry, event, figures)
        self._record.finished(entry, event, figures)
        self._set(entry, "finished")
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        self._release(entry)
        if entry.role == "teacher":
            self.survey.settle_waiting()
            self._submit_ready()

    def _store_teacher(self, entry: Entry, event: LaneFinished, figures: dict[str, float]) -> None:
        folder, manifest = teacher_store.store(
            self.options.teachers,
            self.survey.data,
            entry.config.student,
            load_file(event.weights),
            test_top1=figures["final/last"],
            best_test_top1=figures["final/best_test"],
            device=machine.describe_device(torch.device(self.options.device)),
            epochs=entry.config.recipe.epochs,
            origin="trained",
            signature=entry.signature,
            mlflow_run=entry.run_id,
        )
        self.survey.use_teacher(entry.config.student, folder, manifest)
        self.view.say(f"{entry.label}: {manifest.test_top1:.2f}% on the test set, stored")

    def _failed(self, entry: Entry, event: LaneFailed) -> None:
        self._record.epochs(entry, event.history)
        self._set(entry, "failed", event.reason)
        self._record.failed(entry, event)
        self._release(entry)
        self.problems.append(f"{entry.label}: {event.reason}")
        self.view.say(f"FAILED {entry.label}: {event.reason}")
        if entry.role == "teacher":
            self.survey.settle_waiting()  # its students fail with it

    def _ask(self, job: CohortJob, signature: str, row: dict[str, float]) -> None:
        """Pass an epoch to `on_epoch` for every entry that wants the run, and drop the run once no entry does."""
        wanting = self._wanting.get(signature)
        if self._on_epoch is None or not wanting:  # nothing to call, a teacher, or already dropped
            return
        self._wanting[signature] = [entry for entry in wanting if not self._on_epoch(entry, row)]
        if not self._wanting[signature]:
            self._engine.drop(job, signature)

    def _dropped(self, entry: Entry, event: LaneDropped) -> None:
        assert entry.signature is not None
        self._record.epochs(entry, event.history)
        reason = f"pruned after epoch {len(event.history)} of {entry.config.recipe.epochs}"
        self._record.dropped(entry, reason)
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
        self._record.interrupted(entry, reason)
        self._release(entry)
