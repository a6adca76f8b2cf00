"""A deadline: the time by which a command must have ended, and the time that it takes to end, as measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmark.execution.estimate import WORKER_START_S
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent, EpochDone, Started, StepsDone

#: seconds until an engine asks again whether to stop, and from a command's last word until its process is gone
_POLL_S, _EXIT_S = 0.5, 2.0
#: seconds of making and writing the results, until they are measured
_RESULTS_S = 1.0
#: seconds of one record in the tracking store, and of all records of a run that is finished, until they are measured
_RECORD_S, _FINISH_S = 0.05, 0.5
#: a cohort is started for no less than as many steps and seconds of training
_FEWEST_STEPS, SHORTEST_S = 3, 2.0


@dataclass
class _Training:
    """A cohort that trains, or is about to."""

    job: CohortJob
    submitted: float
    step_s: float
    #: seconds from being asked to stop until its lanes are saved: nothing, until it trains
    stopping_s: float = 0.0
    #: whether its lanes finish at the end of this epoch
    is_last_epoch: bool = False
    has_started: bool = False


class Deadline:
    """What is left of a command's time; it hears of every cohort and every finished run, and learns from them."""

    def __init__(self, at: float, imports_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the time on the clock at which the process must be gone, and the seconds that its imports took."""
        self._at, self._clock = at, clock
        #: seconds until a cohort trains its first step, whose worker imports much the same, and of writing the results
        self.start_s, self.results_s = max(WORKER_START_S, imports_s), _RESULTS_S
        self._finish_s, self._has_finished = _FINISH_S, False
        self._training: dict[str, _Training] = {}
        #: records of finished runs that are not written yet
        self._finishing: set[object] = set()

    def left_s(self) -> float:
        """Seconds until the process must be gone; negative after that."""
        return self._at - self._clock()

    def ending_s(self, num_records: int = 0) -> float:
        """Seconds that the command needs to save its students, write `num_records` records and its results, and end."""
        training = list(self._training.values())
        stopping_s = max((one.stopping_s for one in training), default=0.0)
        lanes = sum(one.job.num_lanes for one in training)
        finishing = sum(one.job.num_lanes for one in training if one.is_last_epoch) + len(self._finishing)
        records_s = (num_records + lanes) * _RECORD_S + finishing * self._finish_s
        return _POLL_S + stopping_s + records_s + self.results_s + _EXIT_S

    def must_stop(self, num_records: int = 0) -> bool:
        """Whether the command has to begin to end; `num_records` are not written yet."""
        return self.left_s() <= self.ending_s(num_records)

    def can_start(self, step_s: float = 0.0, num_records: int = 0) -> bool:
        """Whether there is time to start a cohort whose steps take `step_s` seconds, for at least some of them."""
        return self.train_s(num_records) > max(_FEWEST_STEPS * step_s, SHORTEST_S) + step_s

    def train_s(self, num_records: int = 0) -> float:
        """Seconds that a cohort which is started now can train."""
        return self.left_s() - self.ending_s(num_records) - self.start_s

    def rehearse(self, results: Callable[[], object]) -> None:
        """Measure how long the results take, by making them as they are now."""
        started = self._clock()
        results()
        self.results_s = max(self.results_s, self._clock() - started)

    def submitted(self, job: CohortJob, step_s: float) -> None:
        """Hear that a cohort was given to the engine."""
        self._training[job.name] = _Training(job, self._clock(), step_s)

    def see(self, job: CohortJob, event: EngineEvent) -> None:
        """Learn from an event of a cohort."""
        if isinstance(event, CohortEnded | CohortCrashed):
            self._training.pop(job.name, None)
            return
        training = self._training[job.name]
        if isinstance(event, Started):
            if not training.has_started:  # one that goes on after its worker died says nothing about starts
                self.start_s = max(self.start_s, self._clock() - training.submitted)
            training.has_started = True
            training.stopping_s = 2 * training.step_s
            training.is_last_epoch = event.epochs_done + 1 >= job.epochs
        elif isinstance(event, StepsDone | EpochDone):
            training.stopping_s = event.stopping_s
            if isinstance(event, EpochDone):
                training.is_last_epoch = event.epoch + 1 >= job.epochs

    def finishing(self, call: Callable[[], object]) -> Callable[[], object]:
        """Wrap the call that writes the records of a finished run, to know of it and how long it takes."""
        token = object()
        self._finishing.add(token)

        def timed() -> object:
            started = self._clock()
            done = call()
            if self._has_finished:  # the first one imports what draws its curves
                self._finish_s = self._clock() - started
            self._has_finished = True
            self._finishing.discard(token)
            return done

        return timed
