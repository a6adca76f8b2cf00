"""Execute a plan: keep finished runs, resume interrupted ones, train the rest, and track all of them."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmark import machine, plugins, results, tracking
from benchmark.errors import UserError
from benchmark.execution import engines
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import Delivery
from benchmark.execution.engines import Engine
from benchmark.execution.estimate import Costs, cohorts_of, distinct, refuse_slow_bf16
from benchmark.execution.fetch_teacher import fetch_teacher
from benchmark.execution.hold import Hold, claims_of, hold, leased_elsewhere
from benchmark.execution.options import Options
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
from benchmark.train.teacher_store import Manifest

#: seconds between looks at the runs that other processes train
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Parts:
    """What an execution decides and works with; a simulation has others in their place."""

    engine: Callable[[Options, Callable[[], bool]], Engine] = engines.create
    record: Callable[[Survey, Tracker, str | None], Record] = Record
    cohorts: Callable[[Sequence[Entry], int, Costs], list[list[Entry]]] = cohorts_of
    hold: Callable[[Options, str], Hold | None] = hold
    store_teacher: Callable[..., tuple[Path, Manifest]] = teacher_store.store


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
        parts: Parts = Parts(),
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
        self._parts = parts
        self._engine = parts.engine(self.options, self._should_stop)
        self._record = parts.record(survey, tracker, parent)
        self._delivery = Delivery(tracker, view.say, self.options.patience_s)
        self._last_look = 0.0
        self._claims = claims_of(self.options)
        #: what was last said about the leases' database
        self._trouble: str | None = None
        #: the cohort of every run that was submitted
        self._jobs: dict[str, CohortJob] = {}
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

        Waits for runs that another process of this runs folder or, under a lease, another machine trains, and takes
        over what it leaves unfinished.

        Raises:
            UserError: when the tracking store or the leases fail or stay away; every student is saved first.
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
        for entry in self._elsewhere():
            self._say_waiting(entry)
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
        if self._claims is not None:  # a run that was finished here may have been taken over: see `_end_finished`
            self._delivery.ask(lambda: None)
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
        self._drop_lost()
        try:
            left = self.survey.free(self._elsewhere())
        except UserError as error:  # the leases' database is away: nobody knows
            self._say_trouble(str(error))
            return
        if not left:
            return
        self._delivery.ask(partial(self.survey.look_again, left))
        self.survey.settle_waiting()
        self._submit_teachers()
        self._submit_ready()
        self._start_queued()

    # -- leases ------------------------------------------------------------------------------------------------------

    def _drop_lost(self) -> None:
        """Drop the lanes of runs that another machine took over, since their lease was not renewed in time."""
        self._say_trouble(None if self._claims is None else self._claims.trouble)
        for signature, entry in list(self._by_signature.items()):
            if self._is_lost(entry) and entry.state in ("new", "resume"):
                self._engine.drop(self._jobs[signature], signature)

    def _say_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            self.view.say(f"{trouble}. Training goes on; whoever may reach it takes over what is not renewed.")
        elif trouble is None and self._trouble is not None:
            self.view.say("The leases are renewed again.")
        self._trouble = trouble

    def _is_lost(self, entry: Entry) -> bool:
        return entry.hold is not None and entry.hold.is_lost

    def _owner_of(self, signature: str) -> str:
        """Who else holds the lease of a run; "" where that cannot be told."""
        try:
            return leased_elsewhere(self.options).get(signature, "")
        except UserError:
            return ""

    def _lose(self, entry: Entry) -> Callable[[], None]:
        """Leave a run to the process that took over its lease, whose result counts; return what ends it here."""
        assert entry.signature is not None
        self._by_signature.pop(entry.signature, None)
        self._set(entry, "elsewhere", self._owner_of(entry.signature))
        self.view.say(f"{entry.label}: its lease ended, and {entry.reason or 'another process'} took it over")
        held, entry.hold = entry.hold, None
        return partial(self._leave, entry, held)

    def _leave(self, entry: Entry, held: Hold | None) -> None:
        assert entry.signature is not None
        self._record.interrupted(entry, "its lease ended, and another process took it over")
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        if held is not None:
            held.release()

    # -- cohorts -----------------------------------------------------------------------------------------------------

    def _submit_teachers(self) -> None:
        for entry in self._taken([entry for entry in self.survey.teacher_entries.values() if entry.is_open]):
            if entry.finished_run is None or not self._fetched(entry, entry.finished_run):
                self._queue_up([entry])

    def _fetched(self, entry: Entry, run: tracking.Tracked) -> bool:
        """Whether a teacher that was trained before is not trained here: its weights could be fetched, or it fails.

        With leases, another machine's teacher is never trained twice: its students would be others than there.
        """
        found = self._delivery.ask(partial(self._fetch, entry, run))
        if isinstance(found, UserError):
            is_ours = run.tags.get("runs_folder") in (None, self.options.identity())
            if is_ours or self._claims is None:
                return False
            reason = (
                f"it was trained on {run.tags.get('host', 'another machine')} and its weights cannot be had: {found};"
                " bring them with `pack` there and `merge` here, or train one of this folder's own with --claims none"
            )
            self.problems.append(f"{entry.label}: {reason}")
            self._set(entry, "failed", reason)
        else:
            self.survey.use_teacher(entry.config.student, *found)
            self.view.say(f"{entry.label}: {found[1].test_top1:.2f}% on the test set, fetched from MLflow")
            entry.run_id, entry.figures = run.run_id, run.metrics
            self._set(entry, "finished")
        self._release(entry)
        self.survey.settle_waiting()
        return True

    def _fetch(self, entry: Entry, run: tracking.Tracked) -> tuple[Path, Manifest] | UserError:
        try:
            return fetch_teacher(self.tracker, run, entry.config, self.options.teachers, self.survey.data)
        except UserError as error:
            if self.tracker.is_away(error.__cause__):
                raise
            return error

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
        for group in self._parts.cohorts(self._taken(distinct(ready)), self.options.workers, self.costs):
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
        """Hold a run; False, and the run is elsewhere, when another process holds it."""
        assert entry.signature is not None
        entry.hold = self._delivery.ask(partial(self._parts.hold, self.options, entry.signature))
        if entry.hold is None:
            self._set(entry, "elsewhere", self._owner_of(entry.signature))
            self._say_waiting(entry)
        return entry.hold is not None

    def _say_waiting(self, entry: Entry) -> None:
        self.view.say(f"{entry.label}: {entry.reason or 'another process'} is training it; waiting for it")

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
        job = CohortJob(
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
        self._jobs |= {lane.signature: job for lane in job.lanes}
        return job

    def _lane(self, entry: Entry) -> LaneJob:
        assert entry.signature is not None
        folder = self.options.work(entry.signature)
        return LaneJob(entry.signature, entry.config, folder / "checkpoint", folder / "student.safetensors")

    def _release(self, entry: Entry) -> None:
        if entry.hold is not None:
            entry.hold.release()
            entry.hold = None

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
        known = [lane.signature for lane in job.lanes if self._jobs[lane.signature] is job]
        entries = [self._by_signature[one] for one in known if one in self._by_signature]
        return [entry for entry in entries if entry.state in ("new", "resume")]

    def _finished(self, entry: Entry, event: LaneFinished) -> None:
        is_teacher = entry.role == "teacher"
        asked = entry.hold.is_confirmed if is_teacher and entry.hold is not None else None  # before it is stored
        if self._is_lost(entry) or (asked is not None and not self._delivery.ask(asked)):
            self._delivery.put(self._lose(entry))
            return
        entry.figures = {**results.selections(event.history), "final/train_seconds": round(event.train_seconds, 2)}
        is_new_teacher = is_teacher and entry.config.student not in self.survey.teachers
        if is_new_teacher:
            self._store_teacher(entry, event, entry.figures)
        self._set(entry, "finished")
        record = partial(self._end_finished, entry, event, entry.hold, entry.figures, tracking.now_ms())
        self._delivery.put(record if self._deadline is None else self._deadline.finishing(record))
        if is_new_teacher:
            self.survey.settle_waiting()
            self._submit_ready()

    def _end_finished(
        self, entry: Entry, event: LaneFinished, held: Hold | None, figures: Mapping[str, float], when_ms: int
    ) -> None:
        """Record a run as finished, provided that it is still held: a signature has one finished run."""
        if held is not None and not held.is_confirmed():
            self._lose(entry)()
            return
        self._record.finished(entry, event, figures, when_ms)
        self._clean_up(entry)

    def _clean_up(self, entry: Entry) -> None:
        """Delete the files of a run that is over, and unlock it."""
        assert entry.signature is not None
        shutil.rmtree(self.options.work(entry.signature), ignore_errors=True)
        self._release(entry)

    def _store_teacher(self, entry: Entry, event: LaneFinished, figures: Mapping[str, float]) -> None:
        validated = event.history[-1].get("val/top1", math.nan)
        folder, manifest = self._parts.store_teacher(
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
        if self._is_lost(entry):
            self._delivery.put(self._lose(entry))
            return
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
        if self._is_lost(entry):
            self._delivery.put(self._lose(entry))
            return
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
