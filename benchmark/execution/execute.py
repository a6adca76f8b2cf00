"""Execute a plan: keep finished runs, resume interrupted ones, train the rest, and track all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmark import machine, tracking
from benchmark.errors import UserError
from benchmark.execution import engines, teachers
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import Delivery
from benchmark.execution.dispatch import Dispatch
from benchmark.execution.endings import Endings
from benchmark.execution.engines import Engine
from benchmark.execution.estimate import Costs, cohorts_of, distinct, refuse_slow_bf16
from benchmark.execution.hold import Hold, hold
from benchmark.execution.options import Options
from benchmark.execution.progress import View
from benchmark.execution.reconcile import reconcile
from benchmark.execution.record import Record
from benchmark.execution.runs import Runs
from benchmark.execution.survey import Entry, Survey
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
    Note,
    Started,
    Stopped,
)

#: seconds between looks at the runs that other processes train
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Parts:
    """What an execution decides and works with; a simulation has others in their place."""

    engine: Callable[[Options, Callable[[], bool]], Engine] = engines.create
    record: Callable[[Survey, Tracker, str | None], Record] = Record
    cohorts: Callable[[Sequence[Entry], int, Costs], list[list[Entry]]] = cohorts_of
    hold: Callable[[Options, str], Hold | None] = hold
    store_teacher: teachers.Store = teacher_store.store


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
        #: an error that the user can fix, which ended a cohort
        self.user_error: str | None = None
        self.was_stopped = False
        #: whether it was the deadline that stopped it, and not the user
        self.is_out_of_time = False
        self._is_stopping = False
        self._deadline = deadline
        self._cohorts_of = parts.cohorts
        self._engine = parts.engine(self.options, self._should_stop)
        self._record = parts.record(survey, tracker, parent)
        self._delivery = Delivery(tracker, view.say, self.options.patience_s)
        self._runs = Runs(survey, self._delivery, view.say, parts.hold)
        self._endings = Endings(self._runs, self._record, self._delivery, deadline, view.say, parts.store_teacher)
        self._dispatch = Dispatch(self._engine, survey, costs, self._delivery, deadline)
        self._last_look = 0.0
        self._on_epoch, self._on_look = on_epoch, on_look
        #: by signature: the asking entries for which `on_epoch` did not drop the run
        self._wanting: dict[str, list[Entry]] = {}

    @property
    def problems(self) -> list[str]:
        """Failures and crashes, one line each."""
        return self._endings.problems

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
                    if self._dispatch.has_waiting or not self._wait_elsewhere():
                        break
                if self._dispatch.has_waiting and not self._is_stopping:  # there was no time to start them
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
            self._runs.close()
        self._runs.share_run_ids()

    def left(self) -> list[Entry]:
        """The runs and teachers that are neither finished nor failed here."""
        return [entry for entry in self._runs.entries() if entry.is_open or entry.state == "elsewhere"]

    def _begin(self) -> None:
        refuse_slow_bf16(self.survey)
        machine.allow_open_files(len(self.survey.entries))  # every run that is locked keeps a file open
        self._delivery.ask(partial(reconcile, self.options, self.tracker))
        self._delivery.ask(self._record.begin)
        for entry in self._runs.elsewhere():
            self._runs.say_waiting(entry)
        self._submit()

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

    def _wait_elsewhere(self) -> bool:
        """Wait until another process has left a run; return whether there is something to do again."""
        if self._runs.claims is not None:  # a run that was finished here may have been taken over: see `Endings`
            self._delivery.ask(lambda: None)
        while waiting := self._runs.elsewhere():
            if self._should_stop() or self.user_error is not None:
                return False
            self._look_elsewhere()
            if self._runs.elsewhere() != waiting:
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
        for entry in self._runs.lost():
            if not self._dispatch.drop(entry):
                self._endings.lost(entry)
        if left := self._runs.left_by_others():
            self._delivery.ask(partial(self.survey.look_again, left))
            self.survey.settle_waiting()
            self._submit()

    # -- cohorts -----------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Submit all that can be trained now."""
        for entry in self._runs.take([entry for entry in self.survey.teacher_entries.values() if entry.is_open]):
            if entry.finished_run is None or not self._endings.fetched(entry, entry.finished_run):
                self._dispatch.put([entry])
        self._submit_students()
        self._start_waiting()

    def _submit_students(self) -> None:
        ready = self._runs.ready()
        for entry in ready:
            assert entry.signature is not None
            self._wanting[entry.signature] = self._runs.asking[entry.signature]
        for group in self._cohorts_of(self._runs.take(distinct(ready)), self.options.workers, self.costs):
            self._dispatch.put(group)

    def _start_waiting(self) -> None:
        if not self._is_stopping:
            self._dispatch.start()

    # -- events ------------------------------------------------------------------------------------------------------

    def _handle(self, job: CohortJob, event: EngineEvent) -> None:
        if self._deadline is not None:
            self._deadline.see(job, event)
        if isinstance(event, CohortEnded | CohortCrashed):
            self.view.ended(job)
            if isinstance(event, CohortCrashed):
                self._crashed(job, event)
            self._dispatch.ended()
            self._start_waiting()
            return
        self.view.show(job, event)
        if isinstance(event, Note):
            self.view.say(f"{job.name}: {event.text}")
        elif isinstance(event, Started):
            for entry in self._unfinished(job):  # a cohort that goes on after its worker died has lanes that ended
                self._delivery.put(partial(self._record.started, entry, job, event))
        elif isinstance(event, EpochDone):
            for signature, row in event.rows.items():
                entry = self._runs.taken[signature]
                self._delivery.put(partial(self._record.epochs, entry, [row], tracking.now_ms()))
                self._ask(job, signature, row)
        elif isinstance(event, LaneFinished):
            if self._endings.finished(self._runs.taken[event.signature], event):
                self._submit_students()
        elif isinstance(event, LaneFailed):
            self._endings.failed(self._runs.taken[event.signature], event)
        elif isinstance(event, LaneDropped):
            self._endings.dropped(self._runs.taken[event.signature], event)
        elif isinstance(event, Stopped):
            for entry in self._unfinished(job):
                entry.stand_at(event.epochs_done, event.steps_done, event.steps_per_epoch)
                self._endings.interrupted(entry, "deadline reached" if self.is_out_of_time else "stopped by the user")

    def _unfinished(self, job: CohortJob) -> list[Entry]:
        known = [lane.signature for lane in job.lanes if self._dispatch.jobs[lane.signature] is job]
        entries = [self._runs.taken[one] for one in known if one in self._runs.taken]
        return [entry for entry in entries if entry.state in ("new", "resume")]

    def _ask(self, job: CohortJob, signature: str, row: dict[str, float]) -> None:
        """Pass an epoch to `on_epoch` for every entry that wants the run, and drop the run once no entry does."""
        wanting = self._wanting.get(signature)
        if self._on_epoch is None or not wanting:  # nothing to call, a teacher, or already dropped
            return
        self._wanting[signature] = [entry for entry in wanting if not self._on_epoch(entry, row)]
        if not self._wanting[signature]:
            self._engine.drop(job, signature)

    def _crashed(self, job: CohortJob, event: CohortCrashed) -> None:
        self.view.say(f"{job.name}: stopped: {event.reason}")
        if event.is_user_error:
            self.user_error = self.user_error or event.reason
        else:
            self._endings.problems.append(f"{job.name}: {event.reason}")
        for entry in self._unfinished(job):
            self._endings.interrupted(entry, event.reason)
