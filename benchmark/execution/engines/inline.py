"""Cohorts one after the other in the command's own process: for debuggers and profilers."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

from benchmark.execution.engines.base import registry, train_and_report
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent


@registry.register("inline")
class InlineEngine:
    """An engine whose one thread waits until each event is handled, so that a dropped lane leaves at once."""

    def __init__(self, workers: int, should_stop: Callable[[], bool]) -> None:
        del workers  # always one cohort at a time
        self._should_stop = should_stop
        self._waiting: deque[CohortJob] = deque()
        self._unwanted: set[str] = set()

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort."""
        self._waiting.append(job)

    def drop(self, job: CohortJob, signature: str) -> None:
        """Drop one lane of the running cohort."""
        self._unwanted.add(signature)

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until no cohort waits; more may be submitted meanwhile."""
        while self._waiting and not self._should_stop():
            job = self._waiting.popleft()
            self._unwanted.clear()
            yield from ((job, event) for event in self._train(job))
        self._waiting.clear()

    def _train(self, job: CohortJob) -> Iterator[EngineEvent]:
        events: queue.Queue[EngineEvent] = queue.Queue()

        def report(event: EngineEvent) -> None:
            events.put(event)
            events.join()

        thread = threading.Thread(
            target=train_and_report, args=(job, report, self._should_stop, self._unwanted), daemon=True
        )
        thread.start()
        while True:
            event = events.get()
            yield event
            events.task_done()
            if isinstance(event, CohortEnded | CohortCrashed):
                thread.join()
                return

    def close(self) -> None:
        """Do nothing: no resources are held between cohorts."""
