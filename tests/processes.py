"""Processes that a test starts: copies of its own, which have nothing to import."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

#: after a backward pass on a machine with a GPU, PyTorch refuses another one in a copy: there, processes begin anew
_CONTEXT = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
TIMEOUT_S = 300


def start(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a process that calls a function of a module and ends."""
    process = _CONTEXT.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """Wait for a process: its status, or minus the number of the signal that ended it; None for one that hangs."""
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def pipe() -> tuple[Connection, Connection]:
    """Return two ends to talk through, one for a process that is started."""
    return _CONTEXT.Pipe()


def heard(channel: Connection) -> Any:
    """Return what a process says next; fails when it says nothing."""
    assert channel.poll(TIMEOUT_S), "the process says nothing"
    return channel.recv()
