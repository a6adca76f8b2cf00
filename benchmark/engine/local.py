"""Cohorts in worker processes of this machine, side by side on a CPU, one at a time on a GPU.

Workers hold nothing that matters: a worker that dies loses its cohort's epochs since the last checkpoint, no more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from benchmark.errors import UserError
from benchmark.jobs import CohortJob, Event

_STOP, _EXIT = "stop", "exit"


@dataclass(frozen=True)
class CohortEnded:
    """A worker is through with a cohort; what became of each lane was reported before."""


@dataclass(frozen=True)
class CohortCrashed:
    """A cohort could not go on: its unfinished lanes stand at their last checkpoint."""

    reason: str
    #: a mistake the user can put right (damaged file, ...), as opposed to a fault
    is_user_error: bool


EngineEvent = Event | CohortEnded | CohortCrashed


class _Worker:
    def __init__(self, context: Any) -> None:
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: CohortJob | None = None

    def give(self, job: CohortJob) -> None:
        self.job = job
        self.channel.send(job)


class LocalEngine:
    """Runs cohorts in `workers` processes; hands back their events in the order they happen."""

    def __init__(self, workers: int) -> None:
        self.num_workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._waiting: deque[CohortJob] = deque()
        self._stopping = False

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort; it starts when a worker is free."""
        self._waiting.append(job)
        self._dispatch()

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until nothing runs and nothing waits; more may be submitted meanwhile."""
        while busy := [worker for worker in self._workers if worker.job is not None]:
            sources: list[Any] = [worker.channel for worker in busy] + [worker.process.sentinel for worker in busy]
            ready = connection.wait(sources)
            for worker in busy:
                if worker.channel in ready:
                    yield from self._receive(worker)
                elif worker.process.sentinel in ready:
                    yield self._died(worker)
            self._dispatch()

    def stop(self) -> None:
        """Ask every cohort to save and stop; nothing that waits is started."""
        if self._stopping:
            return
        self._stopping = True
        self._waiting.clear()
        for worker in self._workers:
            if worker.job is not None:
                worker.channel.send(_STOP)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            try:
                worker.channel.send(_EXIT)
            except (BrokenPipeError, OSError):
                continue
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
        self._workers.clear()

    def _dispatch(self) -> None:
        while self._waiting and not self._stopping:
            free = [worker for worker in self._workers if worker.job is None]
            if not free and len(self._workers) < self.num_workers:
                self._workers.append(_Worker(self._context))
                continue
            if not free:
                return
            free[0].give(self._waiting.popleft())

    def _receive(self, worker: _Worker) -> Iterator[tuple[CohortJob, EngineEvent]]:
        job = worker.job
        assert job is not None
        try:
            event: EngineEvent = worker.channel.recv()
        except (EOFError, ConnectionResetError):
            yield self._died(worker)
            return
        if isinstance(event, CohortEnded | CohortCrashed):
            worker.job = None
        yield job, event

    def _died(self, worker: _Worker) -> tuple[CohortJob, EngineEvent]:
        job = worker.job
        assert job is not None
        self._workers.remove(worker)
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return job, CohortCrashed(f"its worker process ended with {how}", is_user_error=False)


def _work(channel: Connection) -> None:
    """Train what comes down the channel, until told to exit or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from benchmark.train import train_cohort

    while True:
        job = channel.recv()
        if job == _EXIT:
            return
        if job == _STOP:
            continue
        try:
            train_cohort(job, channel.send, channel.poll)
            channel.send(CohortEnded())
        except UserError as error:
            channel.send(CohortCrashed(str(error), is_user_error=True))
        except Exception:
            channel.send(CohortCrashed(traceback.format_exc(limit=-3).strip(), is_user_error=False))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
