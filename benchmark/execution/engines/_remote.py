"""A cohort on a host that may share no folder with the command: what is sent there, and what comes back.

The lanes' checkpoints and the teacher's weights are sent as bytes. The host trains in a scratch folder of its own, and
sends back every file that changed with the next event; the command writes it at its own path before it handles the
event. So the command's folder is up to date at any moment, and the cohort can go on anywhere.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler
from pathlib import Path

from filelock import FileLock

from benchmark import datasets, files, plugins, process
from benchmark.errors import UserError
from benchmark.execution.engines.base import train_and_report
from benchmark.train import checkpoint
from benchmark.train.messages import (
    CohortCrashed,
    CohortEnded,
    CohortJob,
    EngineEvent,
    LaneFailed,
    LaneFinished,
    LaneJob,
    Note,
    Started,
)

log = logging.getLogger(__name__)
#: how scratch folders begin, and the file in each that its process locks
_SCRATCH, _LOCK = "sdd-benchmark-cohort-", "lock"
#: a process locks its scratch folder long before it is so old
_LOCKED_WITHIN_S = 60


@dataclass(frozen=True)
class Sent:
    """A cohort as it is sent: the command's job, and what its host needs to begin or to go on."""

    #: paths in it are the command's
    job: CohortJob
    #: contents of the lanes' checkpoints, and of those before them, by the command's path
    checkpoints: Mapping[Path, bytes]
    #: signatures of lanes to drop
    unwanted: frozenset[str]
    #: name of the command's host, and the versions that a run's numbers depend on there
    host: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Shipped:
    """An event, and the files that changed before it: contents by the command's path."""

    event: EngineEvent
    files: Mapping[Path, bytes]


# -- at the command --------------------------------------------------------------------------------------------------


def packed(job: CohortJob, unwanted: Collection[str] = ()) -> Sent:
    """Read what a host needs to train a cohort from where it stands; the teacher's weights travel apart."""
    paths = [path for lane in job.lanes for path in (lane.checkpoint, checkpoint.previous(lane.checkpoint))]
    found = {path: path.read_bytes() for path in paths if path.exists()}
    return Sent(job, found, frozenset(unwanted), platform.node(), versions())


def unpacked(job: CohortJob, shipped: Shipped) -> EngineEvent:
    """Write the files that came with an event, and return the event.

    Raises:
        UserError: when a file cannot be written.
    """
    weights = {lane.weights for lane in job.lanes}
    for path, content in shipped.files.items():
        (files.write if path in weights else checkpoint.write)(path, content)
    return shipped.event


def versions() -> dict[str, str]:
    """Versions of this project and of the packages that affect a run's numbers, as they are installed here."""
    return {"sdd-benchmark": process.version(), **process.package_versions()}


# -- at the host -----------------------------------------------------------------------------------------------------


def train(
    sent: Sent,
    teacher: bytes | None,
    put: Callable[[Shipped | logging.LogRecord], None],
    stop: Callable[[], bool],
    unwanted: Collection[str],
) -> None:
    """Train a cohort that was sent, in the calling thread; `put` receives its events with their files, and log records.

    The last event tells how it ended; by then nothing is left on this host.
    """
    endings: list[Shipped] = []
    with ExitStack() as held:
        try:
            lines = _Lines(put)
            logging.getLogger().addHandler(lines)
            held.callback(logging.getLogger().removeHandler, lines)
            here = _Here(sent, teacher, held.enter_context(_scratch()))
            here.check()

            def report(event: EngineEvent) -> None:
                shipped = here.shipped(event)
                (endings.append if isinstance(event, CohortEnded | CohortCrashed) else put)(shipped)

            train_and_report(here.job, report, stop, unwanted)
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception(f"cohort {sent.job.name} crashed")
            reason = f"on {platform.node()}: {error or type(error).__name__}"
            endings.append(Shipped(CohortCrashed(reason, isinstance(error, UserError)), {}))
    put(endings[-1])


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder for one cohort, and delete those that killed processes left on this host."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*/{_LOCK}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LOCKED_WITHIN_S and files.is_free(left):
                shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as made, FileLock(Path(made) / _LOCK):
        yield Path(made)


class _Lines(QueueHandler):
    """Log records for the command's log, each with the name of its host."""

    def __init__(self, put: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._put = put

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        made: logging.LogRecord = super().prepare(record)
        made.msg = made.message = f"{platform.node()}: {made.msg}"
        return made

    def enqueue(self, record: logging.LogRecord) -> None:
        self._put(record)


class _Here:
    """A cohort in a scratch folder of this host."""

    def __init__(self, sent: Sent, teacher: bytes | None, scratch: Path) -> None:
        self.sent = sent
        self.is_elsewhere = sent.host != platform.node()
        #: the command's path by the path here
        self._named: dict[Path, Path] = {}
        lanes = tuple(self._placed(lane, scratch / str(n)) for n, lane in enumerate(sent.job.lanes))
        file = sent.job.teacher
        if file is not None:
            place = scratch / file.path.name
            self._named[place] = file.path
            if teacher is not None:
                files.write(place, teacher)
            file = replace(file, path=place)
        self.job = replace(sent.job, lanes=lanes, teacher=file, data_root=self._data_root(), cache=self._cache())
        self._marks = {lane.signature: _mark(lane.checkpoint) for lane in lanes}

    def _placed(self, lane: LaneJob, folder: Path) -> LaneJob:
        folder.mkdir()
        here = replace(lane, checkpoint=folder / "checkpoint", weights=folder / "student.safetensors")
        pairs = [(checkpoint.previous(here.checkpoint), checkpoint.previous(lane.checkpoint))]
        pairs += [(here.checkpoint, lane.checkpoint), (here.weights, lane.weights)]
        for place, path in pairs:
            self._named[place] = path
            if path in self.sent.checkpoints:
                files.write(place, self.sent.checkpoints[path])
        return here

    def _data_root(self) -> Path:
        """The command's folder of data where this host has it, else the one that BENCH_DATA names here."""
        theirs, own = self.sent.job.data_root, os.environ.get("BENCH_DATA")
        return theirs if own is None or theirs.is_dir() else Path(own)

    def _cache(self) -> Path:
        """The command's folder of decoded images and view caches on its own host, else a folder of this host."""
        theirs = self.sent.job.cache
        if not self.is_elsewhere and theirs.parent.is_dir():
            return theirs
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdd-benchmark"

    def check(self) -> None:
        """Raise UserError when this host would give other numbers, or has no folder of the images."""
        job, host = self.job, platform.node()
        if self.is_elsewhere:
            own, theirs = versions(), self.sent.versions
            if other := [name for name in {**theirs, **own} if own.get(name) != theirs.get(name)]:
                found = ", ".join(
                    f"{one} {own.get(one, 'missing')} (there: {theirs.get(one, 'missing')})" for one in other
                )
                raise UserError(f"not the versions of the command's host {self.sent.host}: {found}; install the same")
        if job.data_root.is_dir():
            return
        plugins.add(job.plugins)
        try:  # embedded images need no folder
            datasets.load(job.lanes[0].config.data, job.data_root, job.cache, render=True)
        except UserError as error:
            raise UserError(
                f"there is no folder {job.data_root}: put the data there, or name the one of {host} with BENCH_DATA"
                f" when Ray is started there ({error})"
            ) from error

    def shipped(self, event: EngineEvent) -> Shipped:
        """Put the command's paths and this host's name into an event, and add the files that changed."""
        changed: dict[Path, bytes] = {}
        for lane in self.job.lanes:
            if (mark := _mark(lane.checkpoint)) != self._marks[lane.signature]:
                self._marks[lane.signature] = mark
                if mark is not None:
                    changed[self._named[lane.checkpoint]] = lane.checkpoint.read_bytes()
        if isinstance(event, LaneFinished):
            changed[self._named[event.weights]] = event.weights.read_bytes()
            event = replace(event, weights=self._named[event.weights])
        elif isinstance(event, Started) and self.is_elsewhere:
            event = replace(event, host=platform.node())
        elif isinstance(event, LaneFailed | CohortCrashed):
            event = replace(event, reason=self._worded(event.reason))
        elif isinstance(event, Note):
            event = Note(self._worded(event.text))
        return Shipped(event, changed)

    def _worded(self, text: str) -> str:
        for place, path in self._named.items():
            text = text.replace(str(place), str(path))
        return f"on {platform.node()}: {text}" if self.is_elsewhere else text


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What tells a file that was replaced from the one before; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
