"""Cohorts in worker processes of this machine: side by side on a CPU, and on several GPUs one on each.

Workers hold no lasting state: a worker that dies loses its cohort's epochs since the last checkpoint, no more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from benchmark import machine
from benchmark.execution import child
from benchmark.execution.engines.base import registry, train_and_report
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent

_STOP, _EXIT = "stop", "exit"
_POLL_SECONDS = 0.5
#: by exit code
_HINTS = {
    -signal.SIGKILL: " (out of memory? --workers 1 takes less)",
    -signal.SIGBUS: " (disk full? a view cache grows as it is filled)",
}


@dataclass(frozen=True)
class _Drop:
    """A message: the lane with this signature is to be dropped."""

    signature: str


class _Worker:
    def __init__(self, number: int, environment: Mapping[str, str]) -> None:
        self.number = number
        self.channel, theirs = child.CONTEXT.Pipe()
        with _environment(environment):
            self.process = child.start(_work, theirs)
        theirs.close()
        self.job: CohortJob | None = None
        #: whether its cohort was heard of, and whether it was ended before that
        self.has_reported = self.was_ended = False

    def give(self, job: CohortJob) -> None:
        self.job, self.has_reported = job, False
        self.channel.send(job)

    def stop(self) -> None:
        """Let its cohort save and stop; one that was not heard of has nothing to save, and may still be importing."""
        if self.has_reported or self.channel.poll():
            self.channel.send(_STOP)
        else:
            self.was_ended = True
            self.process.kill()


@registry.register("local")
class LocalEngine:
    """An engine with `workers` processes on this machine; it reports events in the order they happen.

    Once `should_stop` returns True, every cohort saves and stops, and no waiting cohort is started.
    """

    def __init__(self, workers: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.num_workers, self._should_stop = workers, should_stop
        self._workers: list[_Worker] = []
        self._waiting: deque[CohortJob] = deque()
        self._stopping = False

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort; it starts when a worker is free."""
        self._waiting.append(job)
        self._dispatch()

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until no cohort runs or waits; more may be submitted meanwhile."""
        while busy := [worker for worker in self._workers if worker.job is not None]:
            sources: list[Any] = [worker.channel for worker in busy] + [worker.process.sentinel for worker in busy]
            ready = connection.wait(sources, timeout=_POLL_SECONDS)
            if not self._stopping and self._should_stop():
                self._stop()
            for worker in busy:
                if worker.channel in ready:
                    yield from self._receive(worker)
                elif worker.process.sentinel in ready:
                    yield self._died(worker)
            self._dispatch()

    def drop(self, job: CohortJob, signature: str) -> None:
        """Drop one lane of a running cohort."""
        for worker in self._workers:
            if worker.job is job:
                with contextlib.suppress(OSError):  # a worker that died is reported as such
                    worker.channel.send(_Drop(signature))

    def _stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        for worker in self._workers:
            if worker.job is not None:
                with contextlib.suppress(OSError):  # a worker that died is reported as such
                    worker.stop()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.channel.send(_EXIT)
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
        self._workers.clear()

    def _dispatch(self) -> None:
        while self._waiting and not self._stopping:
            free = [worker for worker in self._workers if worker.job is None]
            if not free and len(self._workers) < self.num_workers:
                self._workers.append(self._started(self._waiting[0]))
                continue
            if not free:
                return
            free[0].give(self._waiting.popleft())

    def _started(self, job: CohortJob) -> _Worker:
        """Start a worker under the first free number; where its GPUs are chosen here, the number chooses them."""
        taken = {worker.number for worker in self._workers}
        number = next(one for one in range(self.num_workers) if one not in taken)
        shares = max(1, machine.num_gpus() // job.ranks)
        return _Worker(number, machine.gpus_of(number % shares, shares) if job.device == "cuda" else {})

    def _receive(self, worker: _Worker) -> Iterator[tuple[CohortJob, EngineEvent]]:
        job = worker.job
        assert job is not None
        try:
            event: EngineEvent = worker.channel.recv()
        except (EOFError, ConnectionResetError):
            yield self._died(worker)
            return
        worker.has_reported = True
        if isinstance(event, CohortEnded | CohortCrashed):
            worker.job = None
        yield job, event

    def _died(self, worker: _Worker) -> tuple[CohortJob, EngineEvent]:
        job = worker.job
        assert job is not None
        self._workers.remove(worker)
        worker.process.join(timeout=5)
        if worker.was_ended:
            return job, CohortEnded()
        hint = _HINTS.get(worker.process.exitcode or 0, "")
        how = f"its worker process ended with {child.how_ended(worker.process)}{hint}"
        return job, CohortCrashed(how, is_user_error=False)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Inbox:
    """Messages on a worker's channel while it trains a cohort."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel
        self._is_stopping = self.is_exiting = False
        #: signatures of lanes to drop
        self.unwanted: set[str] = set()

    def must_stop(self) -> bool:
        """Read the messages that have arrived; return whether the cohort has to stop."""
        while not self.is_exiting and self._channel.poll():
            try:
                message = self._channel.recv()
            except (EOFError, OSError):  # the parent is gone
                message = _EXIT
            if isinstance(message, _Drop):
                self.unwanted.add(message.signature)
            else:
                self._is_stopping = True
                self.is_exiting = message == _EXIT
        return self._is_stopping


def _work(channel: Connection) -> None:
    """Train the cohorts that arrive on the channel, until told to exit or until the parent is gone; end the process."""
    child.settle()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone: there is nobody to report to
        while True:
            job = channel.recv()
            if job == _EXIT:
                break
            if not isinstance(job, CohortJob):  # a message to a cohort that has ended
                continue
            inbox = _Inbox(channel)
            train_and_report(job, channel.send, inbox.must_stop, inbox.unwanted)
            if inbox.is_exiting:
                break
    child.end()
