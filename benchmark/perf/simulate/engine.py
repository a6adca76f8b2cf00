"""A simulated engine: workers that train by a clock of their own and die at random times."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from safetensors.torch import save

from benchmark import files
from benchmark.execution.estimate import WORKER_START_S, Costs
from benchmark.train import checkpoint
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent, LaneFinished, Note, Started
from benchmark.train.pace import CHECKPOINT_SECONDS, SAVING_SHARE

#: times that a cohort goes on after its worker died, as with engine `ray`
RETRIES = 2
#: steps of an epoch, which only say where a checkpoint stands
_STEPS = 1000


@dataclass
class Tally:
    """What the workers of a simulation did; all times in simulated seconds."""

    #: training that counts, training that a death undid, checkpoints, and starts of workers
    trained_s: float = 0.0
    lost_s: float = 0.0
    saving_s: float = 0.0
    starting_s: float = 0.0
    num_deaths: int = 0
    #: cohorts whose worker died more often than they are retried
    num_crashed: int = 0
    #: lanes of every cohort that was started, and how often each run finished
    lanes: list[int] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Workers as they are simulated."""

    #: mean time between two deaths of a worker, seconds; None: they do not die
    mean_life_s: float | None = None
    #: seconds in which one lane's checkpoint is written
    saving_s: float = 0.15
    start_s: float = WORKER_START_S


@dataclass(eq=False)
class _Task:
    job: CohortJob
    #: seconds of training that all of it takes, and that the last checkpoint holds
    seconds: float
    saved: float
    num_deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker, and when it dies; a new one has not started yet."""

    number: int
    dies_at: float
    is_new: bool = True


class Clock:
    """Simulated seconds since the beginning."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class SimulatedEngine:
    """An engine whose `workers` take cohorts in the order of their submission, as those of `ray` do.

    Each cohort takes the time that `costs` says, and a part more for its checkpoints. A worker dies after an
    exponential time; another takes its place, and its cohort goes on first, from the last checkpoint, `RETRIES` times.
    After that it crashes, its checkpoints stay, and the next command goes on from them.
    """

    def __init__(
        self,
        workers: int,
        should_stop: Callable[[], bool],
        costs: Costs,
        machine: Machine,
        clock: Clock,
        tally: Tally,
        seed: str,
    ) -> None:
        self.num_workers, self._should_stop, self._costs, self._machine = workers, should_stop, costs, machine
        self._clock, self._tally, self._random = clock, tally, random.Random(seed)
        self._waiting: deque[_Task] = deque()
        #: (when, number) of what happens next, and by number: the worker, its task, its start, whether it dies then
        self._happening: list[tuple[float, int]] = []
        self._busy: dict[int, tuple[_Worker, _Task, float, bool]] = {}
        self._idle: list[tuple[int, _Worker]] = []
        self._num_started = self._number = 0
        self._reports: deque[tuple[CohortJob, EngineEvent]] = deque()
        self._is_stopping = False

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort."""
        first = job.lanes[0]
        done = 0.0
        if first.checkpoint.exists():
            state = checkpoint.load(first.checkpoint)
            done = state["epochs_done"] + state["steps_done"] / state["steps_per_epoch"]
        seconds = self._costs.cohort_s([lane.config for lane in job.lanes])
        self._waiting.append(_Task(job, seconds, seconds * done / job.epochs))

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until no cohort runs or waits; the clock moves on in between."""
        while self._waiting or self._busy:
            if not self._is_stopping and self._should_stop():
                self._is_stopping = True
                self._waiting.clear()
            self._dispatch()
            while self._reports:
                yield self._reports.popleft()
            if not self._busy:
                continue
            self._clock.now, number = heapq.heappop(self._happening)
            worker, task, started, is_death = self._busy.pop(number)
            if is_death:
                yield self._died(task, self._clock.now - started, worker)
            else:
                yield from self._ended(task, worker)

    def drop(self, job: CohortJob, signature: str) -> None:
        """Do nothing: a simulation prunes no run."""

    def close(self) -> None:
        """Do nothing: there are no processes."""

    def _dispatch(self) -> None:
        while self._waiting and len(self._busy) < self.num_workers:
            task, worker = self._waiting.popleft(), self._worker()
            start_s = self._machine.start_s if worker.is_new else 0.0
            begins = self._clock.now + start_s
            ends = begins + (task.seconds - task.saved) * (1 + self._saving_share(task))
            at = min(ends, worker.dies_at)
            self._number += 1
            heapq.heappush(self._happening, (at, self._number))
            self._busy[self._number] = worker, task, begins, worker.dies_at < ends
            self._tally.starting_s += min(start_s, at - self._clock.now)
            self._tally.lanes.append(task.job.num_lanes)
            worker.is_new = False
            done = task.job.epochs * task.saved / task.seconds
            self._reports.append(
                (task.job, Started(int(done), _STEPS, "simulated", "simulated", int(done % 1 * _STEPS)))
            )

    def _worker(self) -> _Worker:
        """An idle worker that is still alive, or a new one."""
        while self._idle:
            _, worker = heapq.heappop(self._idle)
            if worker.dies_at > self._clock.now:
                return worker
        self._num_started += 1
        mean = self._machine.mean_life_s
        life = float("inf") if mean is None else self._random.expovariate(1 / mean)
        return _Worker(self._num_started, self._clock.now + life)

    def _saving_share(self, task: _Task) -> float:
        """Seconds of saving for one of training."""
        saving_s = self._machine.saving_s * task.job.num_lanes
        return saving_s / max(CHECKPOINT_SECONDS, saving_s / SAVING_SHARE)

    def _died(self, task: _Task, seconds: float, worker: _Worker) -> tuple[CohortJob, EngineEvent]:
        """Take a cohort back to its last checkpoint, and queue it again."""
        saving_s = self._machine.saving_s * task.job.num_lanes
        interval = max(CHECKPOINT_SECONDS, saving_s / SAVING_SHARE)
        kept = max(0.0, seconds) // (interval + saving_s) * interval
        self._tally.trained_s += kept
        self._tally.saving_s += kept / interval * saving_s
        self._tally.lost_s += max(0.0, seconds) - kept * (1 + saving_s / interval)
        self._tally.num_deaths += 1
        task.saved += kept
        task.num_deaths += 1
        if task.num_deaths <= RETRIES:
            self._waiting.appendleft(task)
            return task.job, Note("its worker died; it resumes from its last checkpoints")
        self._tally.num_crashed += 1
        done = task.job.epochs * task.saved / task.seconds
        for lane in task.job.lanes if task.saved else ():
            place = {"epochs_done": int(done), "steps_done": int(done % 1 * _STEPS), "steps_per_epoch": _STEPS}
            checkpoint.save(lane.checkpoint, {"signature": lane.signature, **place})
        return task.job, CohortCrashed("its worker died too often", is_user_error=False)

    def _ended(self, task: _Task, worker: _Worker) -> Iterator[tuple[CohortJob, EngineEvent]]:
        trained = task.seconds - task.saved
        self._tally.trained_s += trained
        self._tally.saving_s += trained * self._saving_share(task)
        heapq.heappush(self._idle, (worker.number, worker))
        for lane in task.job.lanes:
            self._tally.finished[lane.signature] = self._tally.finished.get(lane.signature, 0) + 1
            if task.job.teacher is None and lane.config.repetition == 0:  # a teacher: its weights are stored
                content = torch.tensor(list(lane.signature.encode()))  # other teachers have other weights
                files.write(lane.weights, save({"simulated": content}))
            row = {"epoch": float(task.job.epochs), "test/top1": 0.0}
            yield task.job, LaneFinished(lane.signature, [row], [], task.seconds, lane.weights)
        yield task.job, CohortEnded()
