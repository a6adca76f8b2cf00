"""Processes that train: started so that a signal to the command does not reach them, and ended with the command."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmark import logs, machine

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
CONTEXT = multiprocessing.get_context("spawn")


def start(work: Callable[..., None], *arguments: object) -> SpawnProcess:
    """Start a process that calls `work`, which calls `settle` first."""
    # not a daemon: a streamed data set has loader processes of its own
    process = CONTEXT.Process(target=work, args=arguments, daemon=False)
    # signals to the process group must not end it, not even while it imports: the mask is inherited
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with _main_module_hidden():
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def settle() -> None:
    """Ignore signals to the process group, write to the command's log, and end with the process that started this."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    machine.keep_freed_memory()
    logs.join()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def end(code: int = 0) -> None:
    """End this process at once: tearing torch down takes a second, which the command would wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def how_ended(process: SpawnProcess) -> str:
    """Say how a process ended: `SIGKILL` or `exit code 1`."""
    code = process.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep a new process from importing the command's module again, MLflow included: it needs none of it."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.update(hidden)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
