"""Deliver records to the tracking store in order, from one thread, and keep them while the store is away."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

from benchmark.errors import ServiceError, UserError
from benchmark.tracking import Tracker

T = TypeVar("T")

#: between two attempts of a call that failed
RETRY_SECONDS = 2.0


class Delivery:
    """Calls that write to the tracking store, made in the order they were put, by one thread; a context manager.

    Training goes on meanwhile. A call that fails because the store is away is repeated until it succeeds; once it has
    been away for `patience_s`, the delivery fails and makes no further call. Calls wait in memory: what they would
    write is on disk in the runs' checkpoints, which stay until it is recorded. From them the next start logs what the
    store does not have, and epochs since a checkpoint are trained again.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None], patience_s: float) -> None:
        self._tracker, self._say, self._patience_s = tracker, say, patience_s
        #: the error that ended the delivery
        self.failure: UserError | None = None
        self._calls: queue.Queue[tuple[Callable[[], object], Future[object]] | None] = queue.Queue()
        self._is_hurried = threading.Event()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def __enter__(self) -> Delivery:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.hurry()
        self._calls.put(None)
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        """Number of calls that are not made yet."""
        return self._calls.qsize()

    def put(self, call: Callable[[], object]) -> None:
        """Queue a call."""
        self._calls.put((call, Future()))

    def ask(self, call: Callable[[], T]) -> T:
        """Make a call in its turn, and return its result.

        Raises:
            UserError: when the delivery has failed, or fails before the call was made.
        """
        future: Future[object] = Future()
        self._calls.put((call, future))
        try:
            return future.result()  # type: ignore[return-value]
        except CancelledError:
            assert self.failure is not None
            raise self.failure from None

    def hurry(self) -> None:
        """Give up at the next failure instead of waiting for the store: the user wants to stop."""
        self._is_hurried.set()

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            if self.failure is not None:
                future.cancel()
                continue
            try:
                future.set_result(patiently(call, self._tracker, self._say, self._patience_s, self._is_hurried))
            except UserError as error:
                self.failure = error
                future.set_exception(error)
            except Exception as error:  # a bug, which must reach the user although nobody waits for this call
                traceback.print_exc()
                self.failure = UserError(f"a record could not be written: {type(error).__name__}: {error}")
                future.set_exception(error)


def patiently(
    call: Callable[[], T],
    tracker: Tracker,
    say: Callable[[str], None],
    patience_s: float,
    is_hurried: threading.Event | None = None,
) -> T:
    """Make a call to the tracking store, or to the leases' database, again while it is away; return its result.

    Raises:
        UserError: when it refuses the call, stays away for `patience_s`, or is away and the user wants to stop.
    """
    hurried = is_hurried or threading.Event()
    away_since: float | None = None
    #: what was said to be away
    named: set[str] = set()
    while True:
        try:
            with tracker.named_errors():
                result = call()
        except UserError as error:
            if not tracker.is_away(error.__cause__) or hurried.is_set():
                raise
            now = time.monotonic()
            away_since = now if away_since is None else away_since
            service = error.service if isinstance(error, ServiceError) else "tracking store"
            if service not in named:
                named.add(service)
                say(f"The {service} is away: {error.__cause__}. Trying again for {patience_s:.0f} s ...")
            if now - away_since >= patience_s:
                raise
            hurried.wait(RETRY_SECONDS)
        else:
            if away_since is not None:
                services = f"{' and the '.join(sorted(named))} {'is' if len(named) == 1 else 'are'}"
                say(f"The {services} back after {time.monotonic() - away_since:.0f} s.")
            return result
