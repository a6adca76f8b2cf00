"""Execute a plan: keep finished runs, resume interrupted ones, train the rest, and track all of them."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from benchmark import machine, plugins, results, tracking
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import Delivery
from benchmark.execution.estimate import Costs, cohorts_of, distinct, refuse_slow_bf16
from benchmark.execution.order import priority_of
from benchmark.execution.progress import View
from benchmark.execution.reconcile import reconcile
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

#: seconds between looks at the runs that other processes train
LOOK_SECONDS = 1.0


class Execution:
    """Training of a survey's open runs, recorded in MLflow: below the run of their pair, or all below `parent`.

    Under a `deadline` cohorts are started in the order of their worth (see `order`), each when a worker is free and
    there is time left for some of its steps, and everything is stopped in time to end by then.

    `on_epoch` receives the row of every epoch that a student trains here, and returns whether to drop the run; for an
    entry that it drops, it is not called again. A run that several entries ask for is dropped when it is dropped for
    all of them. The entry's state tells the outcome: a lane that was at its end by then has finished.

    `on_look` is called about every second, when the states of all entries may have changed.
    """

    def __init__(
        self,
        survey: Survey,
        tracker: Tracker,
        costs: Costs,
        view: View,
        parent: str | None = None,
        on_epoch: Callable[[Entry, dict[str, float]], bool] | None = None,
        on_look: Callable[[], None] = lambda: None,
        deadline: Deadline | None = None,
    ) -> None:
        self.survey, self.tracker, self.costs, self.view = survey, tracker, costs, view
        self.options, self.plan = survey.options, survey.plan
        #: failures and crashes, one line each
        self.problems: list[str] = []
        #: an error that the user can fix, which ended a cohort
        self.user_error: str | None = None
        self.was_stopped = False
        #: whether it was the deadline that stopped it, and not the user
        self.is_out_of_time = False
        self._is_stopping = False
        self._deadline = deadline
        #: under a deadline: cohorts that wait for a worker, in no order, and the number of those that have one
        self._queue: list[Sequence[Entry]] = []
        self._num_submitted = 0
        self._engine = engines.create(self.options, self._should_stop)
        self._record = Record(survey, tracker, parent)
        self._delivery = Delivery(tracker, view.say, self.options.patience_s)
        self._last_look = 0.0
        self._on_epoch, self._on_look = on_epoch, on_look
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
        """Train the open runs, teachers first; return when all are finished or failed, here or elsewhere, or stopped.

        Waits for runs that another process of this runs folder trains, and takes over what it leaves unfinished.

        Raises:
            UserError: when the tracking store fails or stays away; every student is saved first.
        """
        try:
            with machine.on_interrupt(self._interrupt), self._delivery:
                self._begin()
                while True:
                    for job, event in self._engine.events():
                        self._handle(job, event)
                        self._look_elsewhere()
                    if self._queue or not self._wait_elsewhere():
                        break
                if self._queue and not self._is_stopping:  # there was no time to start them
                    self.was_stopped = self.is_out_of_time = True
                if self.is_out_of_time and not self.left():  # the last runs finished while they were to stop
                    self.was_stopped = self.is_out_of_time = False
                self._delivery.ask(self._record.end)
        except UserError:
            self._is_stopping = True
            for _ in self._engine.events():  # events are no longer recorded, but every student is saved
                pass
            raise
        finally:
            self._engine.close()
            for entry in [*self.survey.entries, *self.survey.teacher_entries.values()]:
                self._release(entry)
        for signature, entry in self._by_signature.items():  # an id is known once the store has answered
            for asking in self._asking[signature]:
                asking.run_id = entry.run_id

    def left(self) -> list[Entry]:
        """The runs and teachers that are neither finished nor failed here."""
        entries = [*self.survey.teacher_entries.values(), *self.survey.entries]
        return [entry for entry in entries if entry.is_open or entry.state == "elsewhere"]

    def _begin(self) -> None:
        refuse_slow_bf16(self.survey)
        machine.allow_open_files(len(self.survey.entries))  # every run that is locked keeps a file open
        self._delivery.ask(partial(reconcile, self.options, self.tracker))
        self._delivery.ask(self._record.begin)
        self._submit_teachers()
        self._submit_ready()
        self._start_queued()

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        self._is_stopping = True  # a signal handler does no more than this
        self._delivery.hurry()

    def _should_stop(self) -> bool:
        if self._delivery.failure is not None:  # nothing more can be recorded
            self._is_stopping = True
        deadline = self._deadline
        if deadline is not None and not self._is_stopping and deadline.must_stop(self._delivery.num_waiting):
            self._is_stopping = self.is_out_of_time = True
            self._delivery.hurry()
        if self._is_stopping and not self.was_stopped:
            self.was_stopped = True
            why = "The deadline is near" if self.is_out_of_time else "Stopping"
            self.view.say(f"{why}: every student is saved where it stands ...")
        return self._is_stopping

    # -- runs that other processes train -----------------------------------------------------------------------------

    def _elsewhere(self) -> list[Entry]:
        entries = [*self.survey.teacher_entries.values(), *self.survey.entries]
        return [entry for entry in entries if entry.state == "elsewhere"]

    def _wait_elsewhere(self) -> bool:
        """Wait until another process has left a run; return whether there is something to do again."""
        while waiting := self._elsewhere():
            if self._should_stop() or self.user_error is not None:
                return False
            self._look_elsewhere()
            if self._elsewhere() != waiting:
                return True
            time.sleep(0.2)
        return False

    def _look_elsewhere(self) -> None:
        """Take over the runs that other processes have left, and use the teachers that they have stored."""
        now = time.monotonic()
        if self._is_stopping or now - self._last_look < LOOK_SECONDS:
            return
        self._last_look = now
        self._on_look()
        left = [entry for entry in self._elsewhere() if self.survey.is_free(entry)]
        if not left:
            return
        self._delivery.ask(partial(self.survey.look_again, left))
        self.survey.settle_waiting()
        self._submit_teachers()
        self._submit_ready()
        self._start_queued()

    # -- cohorts -----------------------------------------------------------------------------------------------------

    def _submit_teachers(self) -> None:
        for entry in self._taken([entry for entry in self.survey.teacher_entries.values() if entry.is_open]):
            self._queue_up([entry])

    def _submit_ready(self) -> None:
        ready = [
            entry
            for entry in self.survey.entries
            if entry.state in ("new", "resume") and entry.signature not in self._by_signature
        ]
        for entry in ready:
            assert entry.signature is not None
            asking = self._asking[entry.signature]
            if not any(known is entry for known in asking):
                asking.append(entry)
            self._wanting[entry.signature] = asking
        for group in cohorts_of(self._taken(distinct(ready)), self.options.workers, self.costs):
            self._queue_up(group)

    def _set(self, entry: Entry, state: State, reason: str = "") -> None:
        """Give a run's state to every entry that asks for it."""
        assert entry.signature is not None
        for asking in self._asking.get(entry.signature) or [entry]:
            asking.state, asking.reason, asking.figures = state, reason, entry.figures
            asking.run_id = entry.run_id
            asking.stand_at(entry.epochs_done, entry.steps_done, entry.steps_per_epoch)

    def _taken(self, entries: Sequence[Entry]) -> list[Entry]:
        """Lock runs for this process, look at them again, and return those that are to be trained here.

        Whatever other processes did since the last look, a run that they train or have finished is left to them.
        """
        locked = [entry for entry in entries if entry.signature not in self._by_signature and self._lock(entry)]
        if not locked:
            return []
        self._delivery.ask(partial(self.survey.look_again, locked))
        taken = []
        for entry in locked:
            assert entry.signature is not None
            self._set(entry, entry.state, entry.reason)
            if entry.state in ("new", "resume"):
                self._by_signature[entry.signature] = entry
                taken.append(entry)
            else:
                self._release(entry)
        self.survey.settle_waiting()  # another process may have stored a teacher meanwhile
        return taken

    def _lock(self, entry: Entry) -> bool:
        """Lock a run; False, and the run is elsewhere, when another process holds its lock."""
        assert entry.signature is not None
        path = self.options.lock_file(entry.signature)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # released by the delivery's thread
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._set(entry, "elsewhere")
            self.view.say(f"{entry.label}: another process is training it; waiting for it")
            return False
        entry.lock = lock
        return True

    def _queue_up(self, group: Sequence[Entry]) -> None:
        if self._deadline is None:
            self._engine.submit(self._job(group))
        else:
            self._queue.append(group)

    def _start_queued(self) -> None:
        """Under a deadline: give the free workers the cohorts that are most worth it, while there is time for them."""
        if self._deadline is None or self._is_stopping:
            return
        pairs = self.plan.pairs
        self._queue.sort(key=lambda group: min(priority_of(one, self.survey.entries, pairs) for one in group))
        while self._queue and self._num_submitted < self.options.workers:
            step_s = self.costs.step_s([entry.config for entry in self._queue[0]])
            if not self._deadline.can_start(step_s, self._delivery.num_waiting):
                return
            job = self._job(self._queue.pop(0))
            self._num_submitted += 1
            self._deadline.submitted(job, step_s)
            self._engine.submit(job)

    def _job(self, group: Sequence[Entry]) -> CohortJob:
        teacher = next((e.config.teacher for e in group if e.config.teacher is not None), None)
        return CohortJob(
            name=self._name(group),
            lanes=tuple(self._lane(entry) for entry in group),
            teacher=None if teacher is None else self.survey.teachers[teacher],
            data_root=self.options.data_root,
            cache=self.options.cache,
            cache_gb=self.options.cache_gb,
            device=self.options.device,
            threads=self.options.threads,
            data_digest=self.survey.data.digest,
            plugins=plugins.loaded(),
        )

    def _lane(self, entry: Entry) -> LaneJob:
        assert entry.signature is not None
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
        if self._deadline is not None:
            self._deadline.see(job, event)
        if isinstance(event, CohortEnded | CohortCrashed):
            self.view.ended(job)
            if isinstance(event, CohortCrashed):
                self._crashed(job, event)
            self._num_submitted -= 1
            self._start_queued()
            return
        self.view.show(job, event)
        if isinstance(event, Note):
            self.view.say(f"{job.name}: {event.text}")
        elif isinstance(event, Started):
            for lane in job.lanes:
                self._delivery.put(partial(self._record.started, self._by_signature[lane.signature], job, event))
        elif isinstance(event, EpochDone):
            for signature, row in event.rows.items():
                entry = self._by_signature[signature]
                self._delivery.put(partial(self._record.epochs, entry, [row], tracking.now_ms()))
                self._ask(job, signature, row)
        elif isinstance(event, LaneFinished):
            self._finished(self._by_signature[event.signature], event)
        elif isinstance(event, LaneFailed):
            self._failed(self._by_signature[event.signature], event)
        elif isinstance(event, LaneDropped):
            self._dropped(self._by_signature[event.signature], event)
        elif isinstance(event, Stopped):
            for entry in self._unfinished(job):
                entry.stand_at(event.epochs_done, event.steps_done, event.steps_per_epoch)
                self._interrupted(entry, "deadline reached" if self.is_out_of_time else "stopped by the user")

    def _unfinished(self, job: CohortJob) -> list[Entry]:
        entries = [self._by_signature[lane.signature] for lane in job.lanes]
        return [entry for entry in entries if entry.state in ("new", "resume")]

    def _finished(self, entry: Entry, event: LaneFinished) -> None:
        entry.figures = {**results.selections(event.history), "final/train_seconds": round(event.train_seconds, 2)}
        is_new_teacher = entry.role == "teacher" and entry.config.student not in self.survey.teachers
        if is_new_teacher:
            self._store_teacher(entry, event, entry.figures)
        self._set(entry, "finished")
        record = partial(self._record.finished, entry, event, entry.figures, tracking.now_ms())
        self._delivery.put(record if self._deadline is None else self._deadline.finishing(record))
        self._delivery.put(partial(self._clean_up, entry))
        if is_new_teacher:
            self.survey.settle_waiting()
            self._submit_ready()

    def _clean_up(self, entry: Entry) -> None:
        """Delete the files of a run that is over, and unlock it."""
        assert entry.signature is not None
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        self._release(entry)

    def _store_teacher(self, entry: Entry, event: LaneFinished, figures: Mapping[str, float]) -> None:
        validated = event.history[-1].get("val/top1", math.nan)
        folder, manifest = teacher_store.store(
            self.options.teachers,
            self.survey.data,
            entry.config.student,
            load_file(event.weights),
            test_top1=figures["final/last"],
            best_test_top1=figures[tracking.BEST_ON_TEST],
            device=machine.describe_device(torch.device(self.options.device)),
            epochs=entry.config.recipe.epochs,
            origin="trained",
            signature=entry.signature,
            mlflow_run=self._delivery.ask(lambda: entry.run_id),
        )
        self.survey.use_teacher(entry.config.student, folder, manifest)
        tuning = any(run.config.tuning for run in self.plan.runs)  # nothing of the test set is looked at
        split, reached = ("validation split", validated) if tuning else ("test set", manifest.test_top1)
        self.view.say(f"{entry.label}: {reached:.2f}% on the {split}, stored")

    def _failed(self, entry: Entry, event: LaneFailed) -> None:
        self._set(entry, "failed", event.reason)
        self._delivery.put(partial(self._record.failed, entry, event, tracking.now_ms()))
        self._delivery.put(partial(self._release, entry))
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
        reason = f"pruned after epoch {len(event.history)} of {entry.config.recipe.epochs}"
        self._set(entry, "dropped", reason)
        self._delivery.put(partial(self._record.dropped, entry, event.history, reason, tracking.now_ms()))
        self._delivery.put(partial(self._clean_up, entry))

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
        self._delivery.put(partial(self._record.interrupted, entry, reason))
        self._delivery.put(partial(self._release, entry))
