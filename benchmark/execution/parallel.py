"""Training of one cohort by several processes (data parallel): started here for each cohort, or before by torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import torch
from torch._C._distributed_c10d import TCPStore

from benchmark import machine, plugins
from benchmark.errors import LostRank, UserError
from benchmark.execution import child
from benchmark.train.loop import train_cohort
from benchmark.train.messages import CohortJob, Event
from benchmark.train.ranks import LostContact, Ranks, connected

#: the ranks that torchrun started, while this process is the first of them
_launched: Ranks | None = None
#: whether they stand at different places, since one of their cohorts ended with an error
_is_out_of_step = False
#: seconds that a process which lost another waits for the reason
REASON_S = 5.0
#: exit code of a rank that ended because another one had
_LOST_CONTACT = 3


class Fault(NamedTuple):
    """Why a rank could not go on."""

    text: str
    is_user_error: bool

    def error(self, rank: int) -> UserError | LostRank:
        """The error to raise in the first rank."""
        return UserError(self.text) if self.is_user_error else LostRank(f"rank {rank}: {self.text}")


def train_in_ranks(
    job: CohortJob, report: Callable[[Event], None], stop: Callable[[], bool], unwanted: Collection[str]
) -> None:
    """Train a cohort as the first rank: of those that torchrun started, or of `job.ranks` processes of this machine.

    Raises:
        LostRank: when another rank has ended, within seconds; UserError when it was for a mistake of the user.
    """
    if _launched is not None:
        _train_with_launched(_launched, job, report, stop, unwanted)
        return
    at_rank(job, job.ranks - 1)  # there is a GPU for the last one
    store = TCPStore("127.0.0.1", 0, job.ranks, is_master=True, wait_for_workers=False)
    with _others(job, store.port) as others:
        try:
            others.await_start()
            with connected(0, job.ranks, store) as ranks:
                train_cohort(at_rank(job, 0), report, stop, unwanted=unwanted, ranks=ranks)
        except LostContact as error:
            raise others.fault(REASON_S) from error


def _train_with_launched(
    ranks: Ranks, job: CohortJob, report: Callable[[Event], None], stop: Callable[[], bool], unwanted: Collection[str]
) -> None:
    global _is_out_of_step
    if _is_out_of_step:
        raise LostRank(
            "not started: the processes of torchrun cannot continue together after an error; start them again"
        )
    _is_out_of_step = True
    try:
        ranks.agreed(lambda: job)
        train_cohort(at_rank(job, _local_rank()), report, stop, unwanted=unwanted, ranks=ranks)
    except LostContact as error:
        raise LostRank("another process of torchrun has ended; what it printed says why") from error
    _is_out_of_step = False


@contextlib.contextmanager
def first_of_launched(size: int) -> Iterator[None]:
    """Make this process, the first that torchrun started, train its cohorts with the others; let them go at the end."""
    global _launched, _is_out_of_step
    with connected(0, size) as ranks:
        _launched, _is_out_of_step = ranks, False
        try:
            yield
        finally:
            _launched = None
            if not _is_out_of_step:  # else the others notice that this process has left them
                with contextlib.suppress(LostContact):
                    ranks.agreed(lambda: None)


def follow(rank: int, size: int, data_root: Path, cache: Path) -> None:
    """Train what the first rank says, on images from this machine's own folders, until it lets this process go.

    Raises:
        LostContact: when another rank has ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first rank decides when to stop
    with connected(rank, size) as ranks:
        while (job := ranks.agreed(_nothing)) is not None:
            plugins.add(job.plugins)
            own = replace(at_rank(job, _local_rank()), data_root=data_root, cache=cache)
            train_cohort(own, lambda event: None, lambda: False, ranks=ranks)


def _nothing() -> CohortJob | None:
    """What a rank that does not decide would say."""
    return None


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def at_rank(job: CohortJob, rank: int) -> CohortJob:
    """The job for a rank of this machine: on a GPU of its own, counted from the job's. Raises UserError without one."""
    device = torch.device(job.device)
    if device.type == "cpu":
        return job
    number, there = (device.index or 0) + rank, machine.num_gpus()
    if number >= there:
        raise UserError(
            f"{rank + 1} processes on this machine need a GPU each, from {device} on, and {there} are visible: choose"
            " fewer with --gpus (torchrun: --nproc_per_node)"
        )
    return replace(job, device=f"{device.type}:{number}")


class _Others:
    """The further ranks of a cohort, each with a pipe that it tells its fault by."""

    def __init__(self) -> None:
        self.members: list[tuple[SpawnProcess, Connection]] = []

    def await_start(self) -> None:
        """Wait until all are about to connect: nobody notices one that ends before. Raises its error where one does."""
        for rank, (_, pipe) in enumerate(self.members, start=1):
            try:
                fault: Fault | None = pipe.recv()
            except (EOFError, OSError) as error:
                raise self.fault(REASON_S) from error
            if fault is not None:
                raise fault.error(rank)

    def fault(self, patience_s: float) -> UserError | LostRank:
        """The error of the rank that ended first, for which it is given `patience_s` seconds."""
        until = time.monotonic() + patience_s
        while (left_s := until - time.monotonic()) > 0:
            running = [process for process, _ in self.members if process.exitcode is None]
            for rank, (process, pipe) in enumerate(self.members, start=1):
                with contextlib.suppress(EOFError, OSError):
                    if pipe.poll() and isinstance(fault := pipe.recv(), Fault):
                        return fault.error(rank)
                if process.exitcode not in (None, _LOST_CONTACT):
                    return LostRank(f"rank {rank} ended with {child.how_ended(process)}")
            connection.wait([process.sentinel for process in running], timeout=left_s)
        return LostRank("the ranks lost contact with each other")


@contextlib.contextmanager
def _others(job: CohortJob, port: int) -> Iterator[_Others]:
    """Start the further ranks, and end them."""
    others = _Others()
    try:
        for rank in range(1, job.ranks):
            ours, theirs = child.CONTEXT.Pipe(duplex=False)
            others.members.append((child.start(_work, at_rank(job, rank), rank, port, theirs), ours))
            theirs.close()
        yield others
    finally:
        until = time.monotonic() + REASON_S
        for process, pipe in others.members:
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _work(job: CohortJob, rank: int, port: int, pipe: Connection) -> None:
    """Train as one of the further ranks; end the process."""
    child.settle()
    try:
        plugins.add(job.plugins)
        store = TCPStore("127.0.0.1", port, job.ranks, is_master=False)
        pipe.send(None)  # it has started
        with connected(rank, job.ranks, store) as ranks:
            train_cohort(job, lambda event: None, lambda: False, ranks=ranks)
    except LostContact:
        child.end(_LOST_CONTACT)
    except Exception as error:
        fault = Fault(str(error), True) if isinstance(error, UserError) else Fault(_last_lines(), False)
        with contextlib.suppress(OSError):
            pipe.send(fault)
        child.end(1)
    child.end()


def _last_lines() -> str:
    return traceback.format_exc(limit=-3).strip()
