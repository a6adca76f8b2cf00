"""When a cohort saves its lanes, and how soon it can have stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from benchmark.train.lane import Lane

#: a checkpoint is written between two steps when the last one is at least this old, and so old that saving takes
#: no more than a share of the time; always at the last epoch, and when asked to stop
CHECKPOINT_SECONDS, SAVING_SHARE = 30.0, 0.05
#: until a save is measured: seconds that a checkpoint takes, and bytes a second
_CHECKPOINT_S, _CHECKPOINT_BYTES_PER_S = 0.05, 1e8


class Pace:
    """Times of the saves of a cohort, and of its questions whether to stop."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._last_saved = time.monotonic()
        #: seconds that the last save took; None before the first
        self._saving_s: float | None = None
        #: when it was last asked whether to stop, and the longest time between two questions
        self._last_asked: float | None = None
        self._longest_unasked_s = 0.0

    def must_stop(self) -> bool:
        """Ask whether to stop."""
        now = time.monotonic()
        if self._last_asked is not None:
            self._longest_unasked_s = max(self._longest_unasked_s, now - self._last_asked)
        self._last_asked = now
        return self._stop()

    def must_save(self) -> bool:
        """Whether a checkpoint is due."""
        age = time.monotonic() - self._last_saved
        return age > CHECKPOINT_SECONDS and age > (self._saving_s or 0.0) / SAVING_SHARE

    def saved(self, started: float) -> None:
        """Hear that all lanes are saved now, and when that began, by the monotonic clock."""
        self._last_saved = time.monotonic()
        self._saving_s = self._last_saved - started

    def stopping_s(self, lanes: Iterable[Lane]) -> float:
        """Seconds that it takes, at most, from being asked to stop until all lanes are saved."""
        expected_s = sum(_saving_s(lane) for lane in lanes)
        return self._longest_unasked_s + (expected_s if self._saving_s is None else self._saving_s)


def _saving_s(lane: Lane) -> float:
    """Estimate the seconds that a lane's checkpoint takes: its weights, side modules included, and their momenta."""
    held = [module for module in (lane.network, lane.modules) if module is not None]
    size: int = 2 * sum(value.nbytes for module in held for value in module.state_dict().values())
    return _CHECKPOINT_S + size / _CHECKPOINT_BYTES_PER_S
