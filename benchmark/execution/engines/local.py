"""Cohorts in worker processes of this machine: side by side on a CPU, and on several GPUs one on each.

Workers hold no lasting state: a worker that dies loses its cohort's epochs since the last checkpoint, no more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from benchmark import logs, machine
from benchmark.execution.engines.base import registry, train_and_report
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent

_STOP, _EXIT = "stop", "exit"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
    def __init__(self, context: Any, number: int, environment: Mapping[str, str]) -> None:
        self.number = number
        self.channel, theirs = context.Pipe()
        # not a daemon: a streamed data set has loader processes of its own
        self.process = context.Process(target=_work, args=(theirs,), daemon=False)
        # signals to the process group must not end a worker, not even while it imports: the mask is inherited
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with _main_module_hidden(), _environment(environment):
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
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
        self._context = multiprocessing.get_context("spawn")
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
        """Start a worker under the first free number; where a GPU is chosen here, the number chooses it."""
        taken = {worker.number for worker in self._workers}
        number = next(one for one in range(self.num_workers) if one not in taken)
        gpus = machine.gpus_of(number, machine.num_gpus()) if job.device == "cuda" else {}
        return _Worker(self._context, number, gpus)

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
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        hint = _HINTS.get(code or 0, "")
        return job, CohortCrashed(f"its worker process ended with {how}{hint}", is_user_error=False)


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


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep a new process from importing the command's module again, MLflow included: a worker needs none of it."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.update(hidden)


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
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    machine.keep_freed_memory()
    logs.join()
    threading.Thread(target=_die_with_parent, daemon=True).start()

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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # tearing torch down takes a second, which the command would wait for


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
