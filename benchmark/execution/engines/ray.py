"""Cohorts on the machines of a Ray cluster, or of one that is started here; no folder need be shared.

Every worker is an actor with one GPU, or with as many CPUs as a cohort has threads. What it needs travels with the
cohort, and its checkpoints come back as they are written (`_remote.py`), so that a cohort whose
worker died goes on elsewhere from there.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmark import machine
from benchmark.errors import UserError
from benchmark.execution.engines import _remote as remote
from benchmark.execution.engines._cluster import Cluster, demand_of
from benchmark.execution.engines._remote import Sent, Shipped
from benchmark.execution.engines.base import registry
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
)

#: times that a cohort goes on after its worker died
RETRIES = 2
_POLL_SECONDS = 0.5
#: events that a worker may be ahead of the command: they hold checkpoints
_AHEAD = 4


@dataclass(eq=False)
class _Task:
    """A cohort and where it stands, as far as its events tell."""

    job: CohortJob
    #: signatures of the lanes that have not ended, and of those to drop
    left: set[str]
    unwanted: set[str] = field(default_factory=set)
    #: the last epoch that was reported
    epoch: int = 0
    has_reported: bool = False
    num_deaths: int = 0

    def sent(self) -> Sent:
        lanes = tuple(lane for lane in self.job.lanes if lane.signature in self.left)
        return remote.packed(replace(self.job, lanes=lanes), self.unwanted)


class _Host:
    """The actor: a process that trains the cohorts it is given, one after the other."""

    def __init__(self) -> None:
        machine.keep_freed_memory()
        self._items: queue.Queue[Shipped | logging.LogRecord] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._unwanted: set[str] = set()

    def name(self) -> str:
        return platform.node()

    def begin(self, sent: Sent, teacher: bytes | None) -> None:
        self._unwanted = set(sent.unwanted)
        arguments = sent, teacher, self._items.put, self._stop.is_set, self._unwanted
        threading.Thread(target=remote.train, args=arguments, daemon=True).start()

    def take(self) -> list[Shipped | logging.LogRecord]:
        """Wait for what comes next, and return all that is there by then."""
        found = [self._items.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._items.get_nowait())
        return found

    def stop(self) -> None:
        self._stop.set()

    def drop(self, signature: str) -> None:
        self._unwanted.add(signature)


class _Worker:
    """An actor as the command sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        #: name of its host, once it has started; what it was asked last; what came and is not handled yet
        self.host: str | None = None
        self.asked = actor.name.remote()
        self.items: deque[Shipped | logging.LogRecord] = deque()
        self.task: _Task | None = None
        #: whether its cohort was heard of; the answer to its being given
        self.has_reported = False
        self.begun: Any = None

    def give(self, task: _Task, teacher: Any) -> None:
        self.task, self.has_reported = task, False
        self.begun = self.actor.begin.remote(task.sent(), teacher)


@registry.register("ray")
class RayEngine:
    """An engine with up to `workers` processes on the machines of a Ray cluster.

    A cohort whose worker dies goes on from its checkpoints, `RETRIES` times at most. Once `should_stop` returns True,
    every cohort saves and stops, and no waiting cohort is started.
    """

    def __init__(self, workers: int, should_stop: Callable[[], bool], ray_address: str | None = None) -> None:
        """Make the engine; Ray is started, or joined, for the first cohort.

        Raises:
            UserError: when Ray is not installed.
        """
        self.num_workers, self._should_stop = workers, should_stop
        self._cluster = Cluster(workers, ray_address)
        self._ray = self._cluster.ray
        self._workers: list[_Worker] = []
        self._waiting: deque[_Task] = deque()
        #: teachers' weights in Ray's store, by checksum
        self._teachers: dict[str, Any] = {}
        self._stopping = False

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort; it starts when a worker is free.

        Raises:
            UserError: when there is no cluster, none of whose machines can train the cohort included.
        """
        if job.device not in ("cpu", "cuda"):
            raise UserError(f"--device {job.device}: Ray chooses among the GPUs; use --device cuda")
        self._cluster.connect(job)
        self._waiting.append(_Task(job, {lane.signature for lane in job.lanes}))
        self._dispatch()

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until no cohort runs or waits; more may be submitted meanwhile."""
        while self._waiting or any(worker.task is not None for worker in self._workers):
            if not self._stopping and self._should_stop():
                yield from self._stop()
            self._dispatch()
            asked = {worker.asked: worker for worker in self._workers}
            begun = {worker.begun: worker for worker in self._workers if worker.begun is not None}
            done, _ = self._ray.wait([*begun, *asked], timeout=_POLL_SECONDS) if asked else ([], None)
            for one in done:
                yield from self._began(begun[one]) if one in begun else self._answered(asked[one])
            for worker in [*self._workers]:
                while worker.items and worker in self._workers:
                    yield from self._handle(worker, worker.items.popleft())
            if not self._waiting:
                for worker in [worker for worker in self._workers if worker.task is None]:
                    self._end(worker)  # its GPU is someone else's now

    def drop(self, job: CohortJob, signature: str) -> None:
        """Drop one lane of a running cohort."""
        for worker in self._workers:
            if worker.task is not None and worker.task.job is job:
                worker.task.unwanted.add(signature)
                worker.actor.drop.remote(signature)
        for task in self._waiting:
            if task.job is job and task.num_deaths:  # it is about to go on
                task.unwanted.add(signature)

    def close(self) -> None:
        """End the workers, and the Ray that was started here."""
        for worker in [*self._workers]:
            self._end(worker)
        self._cluster.close()

    # -- workers -----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._waiting and not self._stopping:
            free = [worker for worker in self._workers if worker.host is not None and worker.task is None]
            if free:
                task = self._waiting.popleft()
                free[0].give(task, self._teacher(task.job))
                continue
            num_starting = sum(worker.host is None for worker in self._workers)
            if len(self._workers) == self.num_workers or num_starting >= len(self._waiting):
                return
            demand = demand_of(self._waiting[0].job)
            # one call waits for what comes next, the other tells it to stop or to drop
            actor = self._ray.remote(_Host).options(**_as_options(demand), max_concurrency=2).remote()
            self._workers.append(_Worker(actor))

    def _teacher(self, job: CohortJob) -> Any:
        """The weights of a cohort's teacher in Ray's store; None when there are none, or no file."""
        file = job.teacher
        if file is None or not file.path.exists():
            return None
        if file.checksum not in self._teachers:
            self._teachers[file.checksum] = self._ray.put(file.path.read_bytes())
        return self._teachers[file.checksum]

    def _began(self, worker: _Worker) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """See whether a cohort arrived: its host may lack what its parts are made of."""
        begun, worker.begun = worker.begun, None
        try:
            self._ray.get(begun)
        except self._ray.exceptions.RayActorError:  # it died, which it is asked about next
            return
        except self._ray.exceptions.RayError as error:
            task, worker.task = worker.task, None
            self._end(worker)
            assert task is not None
            yield task.job, CohortCrashed(f"on {worker.host}: {error}", is_user_error=False)

    def _answered(self, worker: _Worker) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Take a worker's answer, and ask for what comes next."""
        try:
            answer = self._ray.get(worker.asked)
        except self._ray.exceptions.RayError as error:
            yield from self._died(worker, str(error))
            return
        if worker.host is None:
            worker.host = answer
        else:
            worker.items.extend(answer)
        worker.asked = worker.actor.take.remote()

    def _handle(self, worker: _Worker, item: Shipped | logging.LogRecord) -> Iterator[tuple[CohortJob, EngineEvent]]:
        if isinstance(item, logging.LogRecord):
            logging.getLogger(item.name).handle(item)
            return
        task = worker.task
        assert task is not None
        task.has_reported = worker.has_reported = True
        try:
            event = remote.unpacked(task.job, item)
        except UserError as error:  # a full disk here: the worker has nowhere to save
            self._end(worker)
            event = CohortCrashed(str(error), is_user_error=True)
        if isinstance(event, EpochDone):
            if event.epoch <= task.epoch:  # trained again, since the last checkpoint
                return
            task.epoch = event.epoch
        elif isinstance(event, LaneFinished | LaneFailed | LaneDropped):
            task.left.discard(event.signature)
        elif isinstance(event, CohortEnded | CohortCrashed):
            worker.task = None
        yield task.job, event

    def _died(self, worker: _Worker, error: str) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Queue the cohort of a worker that died again; that of one that never started is the next in the queue."""
        self._workers.remove(worker)
        task = worker.task
        if task is None and worker.host is None and self._waiting:
            task = self._waiting.popleft()
        if task is None:
            return
        task.num_deaths += 1
        reason = f"its worker{f' on {worker.host}' if worker.host else ''} died: {_cause(error)}"
        if not task.left:
            yield task.job, CohortEnded()
        elif self._stopping or task.num_deaths > RETRIES:
            yield task.job, CohortCrashed(reason, is_user_error=False)
        else:
            self._waiting.appendleft(task)
            yield task.job, Note(f"{reason}; it resumes from its last checkpoints")

    def _stop(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Let cohorts save and stop; one that was not heard of has nothing to save, and may still be importing."""
        self._stopping = True
        unheard = []
        for worker in [*self._workers]:
            if worker.task is not None and worker.has_reported:
                worker.actor.stop.remote()
                continue
            self._end(worker)
            if worker.task is not None:
                unheard.append(worker.task)
        unheard += [task for task in self._waiting if task.num_deaths]
        self._waiting.clear()
        for task in unheard:
            if task.has_reported:
                reason = "its worker died, and the command was stopped before it went on"
                yield task.job, CohortCrashed(reason, is_user_error=False)
            else:
                yield task.job, CohortEnded()

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.actor)


def _as_options(demand: dict[str, int]) -> dict[str, int]:
    return {f"num_{kind.lower()}s": amount for kind, amount in demand.items()}


def _cause(error: str) -> str:
    """The part of Ray's message on a death that says why."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["no reason given"]
    text = next((line for line in lines if line.startswith("The actor is dead because ")), lines[0])
    return text.removeprefix("The actor is dead because ").partition(" Some common causes")[0]
