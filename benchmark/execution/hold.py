"""Hold runs: whoever holds a run trains it.

A run is held by the lock of its file in the runs folder, which a process cannot keep when it dies, and, where several
machines share a store, by a lease in their database as well (`claims`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.engine import URL

from benchmark.execution.claims import Claims, url_of
from benchmark.execution.options import Options


@dataclass(frozen=True)
class Hold:
    """A run that this process holds, until it is released or its lease was taken over."""

    signature: str
    lock: FileLock
    claims: Claims | None

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken over the lease, as far as renewals know."""
        return self.claims is not None and self.signature in self.claims.lost

    def is_confirmed(self) -> bool:
        """Whether the database of the leases says that the run is still held; the lease begins anew."""
        if self.claims is not None:
            self.claims.renew()
        return not self.is_lost

    def release(self) -> None:
        """Let other processes have the run."""
        if self.claims is not None:
            self.claims.release(self.signature)
        self.lock.release()


def claims_of(options: Options) -> Claims | None:
    """Open the leases that a command uses; None when it locks files alone. Raises UserError for a wrong --claims."""
    url = url_of(options)
    return None if url is None else _opened(url, options.runs, os.getpid())


@cache
def _opened(url: URL, runs: Path, process: int) -> Claims:
    """Open leases once for a runs folder and a process, whose threads share them."""
    del runs, process
    return Claims(url)


def hold(options: Options, signature: str) -> Hold | None:
    """Hold a run; None when another process does.

    Raises:
        UserError: when the database of the leases fails.
    """
    path = options.lock_file(signature)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)  # released by the delivery's thread
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    is_won = False
    try:
        claims = claims_of(options)
        is_won = claims is None or claims.claim(signature, f"{options.identity()}, process {os.getpid()}")
    finally:
        if not is_won:
            lock.release()
    return Hold(signature, lock, claims) if is_won else None


@contextmanager
def held(options: Options, signature: str) -> Iterator[bool]:
    """Hold a run if it is free; yield whether it is held."""
    one = hold(options, signature)
    try:
        yield one is not None
    finally:
        if one is not None:
            one.release()


def leased_elsewhere(options: Options) -> dict[str, str]:
    """Owners of the leases that other processes hold now, by the signature of the run."""
    claims = claims_of(options)
    return {} if claims is None else claims.others()
