"""What becomes of a run when its training ends: its state, its record, its files, and who may have it next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial

from benchmark import results, tracking
from benchmark.errors import UserError
from benchmark.execution import teachers
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import Delivery
from benchmark.execution.hold import Hold
from benchmark.execution.record import Record
from benchmark.execution.runs import Runs
from benchmark.execution.survey import Entry
from benchmark.train.messages import LaneDropped, LaneFailed, LaneFinished


class Endings:
    """One method per way in which a run ends; each sets the state at once, and has the rest delivered in order.

    A run that another machine took over meanwhile is left to it however it ended here: a signature has one result.
    """

    def __init__(
        self,
        runs: Runs,
        record: Record,
        delivery: Delivery,
        deadline: Deadline | None,
        say: Callable[[str], None],
        store_teacher: teachers.Store,
    ) -> None:
        self._runs, self._record, self._delivery, self._deadline, self._say = runs, record, delivery, deadline, say
        self._survey, self._tracker = record.survey, record.tracker
        self._store_teacher = store_teacher
        #: failures and crashes, one line each
        self.problems: list[str] = []

    def finished(self, entry: Entry, event: LaneFinished) -> bool:
        """End a run that was trained to its last epoch; return whether students can train that could not before."""
        is_teacher = entry.role == "teacher"
        asked = entry.hold.is_confirmed if is_teacher and entry.hold is not None else None  # before it is stored
        if entry.is_lost or (asked is not None and not self._delivery.ask(asked)):
            self._delivery.put(self._lose(entry))
            return False
        entry.figures = {**results.selections(event.history), "final/train_seconds": round(event.train_seconds, 2)}
        is_new_teacher = is_teacher and entry.config.student not in self._survey.teachers
        if is_new_teacher:
            mlflow_run = self._delivery.ask(lambda: entry.run_id)
            reached = teachers.store(self._survey, entry, event, mlflow_run, self._store_teacher)
            self._say(f"{entry.label}: {reached}, stored")
        self._runs.set_state(entry, "finished")
        record = partial(self._record_finished, entry, event, entry.hold, entry.figures, tracking.now_ms())
        self._delivery.put(record if self._deadline is None else self._deadline.finishing(record))
        if is_new_teacher:
            self._survey.settle_waiting()
        return is_new_teacher

    def _record_finished(
        self, entry: Entry, event: LaneFinished, held: Hold | None, figures: Mapping[str, float], when_ms: int
    ) -> None:
        """Record a run as finished, provided that it is still held: a signature has one finished run."""
        if held is not None and not held.is_confirmed():
            self._lose(entry)()
            return
        self._record.finished(entry, event, figures, when_ms)
        self._clean_up(entry)

    def fetched(self, entry: Entry, run: tracking.Tracked) -> bool:
        """Fetch a teacher that was trained before; return whether its run is over, since it was fetched or failed.

        With leases, another machine's teacher is never trained twice: its students would be others than there.
        """
        found = self._delivery.ask(partial(teachers.fetch, self._tracker, run, entry.config, self._survey))
        if isinstance(found, UserError):
            is_ours = run.tags.get("runs_folder") in (None, self._survey.options.identity())
            if is_ours or self._runs.claims is None:
                return False
            reason = (
                f"it was trained on {run.tags.get('host', 'another machine')} and its weights cannot be had: {found};"
                " bring them with `pack` there and `merge` here, or train one of this folder's own with --claims none"
            )
            self.problems.append(f"{entry.label}: {reason}")
            self._runs.set_state(entry, "failed", reason)
        else:
            self._survey.use_teacher(entry.config.student, *found)
            self._say(f"{entry.label}: {found[1].test_top1:.2f}% on the test set, fetched from MLflow")
            entry.run_id, entry.figures = run.run_id, run.metrics
            self._runs.set_state(entry, "finished")
        self._runs.release(entry)
        self._survey.settle_waiting()
        return True

    def failed(self, entry: Entry, event: LaneFailed) -> None:
        """End a run that failed, and the students of a teacher with it."""
        if entry.is_lost:
            self._delivery.put(self._lose(entry))
            return
        self._runs.set_state(entry, "failed", event.reason)
        self._delivery.put(partial(self._record.failed, entry, event, tracking.now_ms()))
        self._delivery.put(partial(self._runs.release, entry))
        self.problems.append(f"{entry.label}: {event.reason}")
        self._say(f"FAILED {entry.label}: {event.reason}")
        if entry.role == "teacher":
            self._survey.settle_waiting()  # its students fail with it

    def dropped(self, entry: Entry, event: LaneDropped) -> None:
        """End a run that was dropped on request, or because its lease was lost."""
        if entry.is_lost:
            self._delivery.put(self._lose(entry))
            return
        reason = f"pruned after epoch {len(event.history)} of {entry.config.recipe.epochs}"
        self._runs.set_state(entry, "dropped", reason)
        self._delivery.put(partial(self._record.dropped, entry, event.history, reason, tracking.now_ms()))
        self._delivery.put(partial(self._clean_up, entry))

    def interrupted(self, entry: Entry, reason: str) -> None:
        """End a run here that the next start resumes."""
        self._runs.set_state(entry, "resume", reason)
        self._delivery.put(partial(self._record.interrupted, entry, reason))
        self._delivery.put(partial(self._runs.release, entry))

    def lost(self, entry: Entry) -> None:
        """Leave a run that was not started to the process that took over its lease."""
        self._delivery.put(self._lose(entry))

    def _lose(self, entry: Entry) -> Callable[[], None]:
        """Leave a run to the process that took over its lease, whose result counts; return what ends it here."""
        return partial(self._record_lost, entry, self._runs.leave(entry))

    def _record_lost(self, entry: Entry, held: Hold | None) -> None:
        self._record.interrupted(entry, "its lease ended, and another process took it over")
        self._delete_files(entry)
        if held is not None:
            held.release()

    def _clean_up(self, entry: Entry) -> None:
        """Delete the files of a run that is over, and unlock it."""
        self._delete_files(entry)
        self._runs.release(entry)

    def _delete_files(self, entry: Entry) -> None:
        assert entry.signature is not None
        shutil.rmtree(self._survey.options.work(entry.signature), ignore_errors=True)
