"""What `status` says without looking: what a training of the same plan says now, or what was seen and still holds.

Nothing of a plan changes as long as the code, the arguments, the images, the stored teachers, the checkpoints and the
database are the same, bytes and not times, so that a copied store is known too. A plan that trains changes all the
time, and its command writes down how far it is. Either way `status` needs neither torch nor MLflow.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmark import catalogue, files, plugins

HEADERS = ("pair", "teacher", "methods", "seeds", "epochs", "runs")
#: what decides which runs a plan has
_ARGUMENTS = ("suite", "profile", "pairs", "methods", "seeds", "assignments", "device")
#: plans that a runs folder remembers, and files that a folder of images may have to be looked at for each `status`
_MAX_KEPT, _MAX_FILES = 50, 50_000
#: bytes at the head of a checkpoint that are read
_HEAD = 128


@dataclass(frozen=True)
class Progress:
    """The progress of a plan in words: a row per pair, then lines."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]

    def table(self) -> RichTable:
        """Tabulate the plan for the terminal."""
        shown = RichTable(title=Text(self.title), title_justify="left", title_style="bold")
        for header in HEADERS:
            shown.add_column(header, overflow="fold", no_wrap=header == "pair")
        for row in self.rows:
            shown.add_row(*row)
        return shown

    def print(self, console: Console) -> None:
        """Print the table and the lines."""
        console.print(self.table())
        for line in self.lines:
            console.print(line)


def remembered(given: argparse.Namespace) -> Progress | None:
    """The progress of a plan that trains now, or whose every ground is as it was; None when it has to be looked at."""
    try:
        live = _live(given)
        if not files.is_free(_lock(live)):
            return _progress(json.loads(live.read_bytes()))
        known = json.loads(_file(given.runs).read_bytes())[_name(given)]
        return _progress(known) if known["grounds"] == _grounds(given, known["reads_folder"]) else None
    except (OSError, ValueError, KeyError, TypeError):  # nothing is remembered, or it is damaged: look
        return None


def _progress(known: Mapping[str, Any]) -> Progress:
    rows = tuple(tuple(str(cell) for cell in row) for row in known["rows"])
    return Progress(str(known["title"]), rows, tuple(str(line) for line in known["lines"]))


@contextlib.contextmanager
def told(given: argparse.Namespace) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that lets `status` know how far this process is, until the block ends or the process dies.

    Where another process trains the same plan, that one tells it.
    """
    live = _live(given)
    live.parent.mkdir(parents=True, exist_ok=True)
    lock, said = filelock.FileLock(_lock(live)), None

    def tell(progress: Progress) -> None:
        nonlocal said
        if lock.is_locked and progress != said:
            said = progress
            with contextlib.suppress(OSError):  # a full disk is reported by what must be written
                partial = live.with_name(f"{live.name}.partial")
                partial.write_text(json.dumps(asdict(progress)))
                partial.replace(live)

    with contextlib.suppress(filelock.Timeout, OSError):
        lock.acquire(timeout=0)
    try:
        if lock.is_locked:  # a process that was killed left it
            live.unlink(missing_ok=True)
        yield tell
    finally:
        if lock.is_locked:
            live.unlink(missing_ok=True)
        lock.release()


def remember(given: argparse.Namespace, progress: Progress, reads_folder: bool) -> None:
    """Remember the progress of a plan; `reads_folder` says whether its images lie in the data folder.

    When another process writes the file, or the folder cannot be written, nothing is remembered.
    """
    grounds = _grounds(given, reads_folder)
    if grounds is None or not given.runs.is_dir():
        return
    path = _file(given.runs)
    with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=0):
        content: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            content = dict(json.loads(path.read_bytes()))
        content.pop(_name(given), None)
        content[_name(given)] = {"grounds": grounds, "reads_folder": reads_folder, **asdict(progress)}
        with files.written_whole(path) as file:
            file.write(json.dumps(dict(list(content.items())[-_MAX_KEPT:])).encode())


def _file(runs: Path) -> Path:
    return runs / "known-status.json"


def _live(given: argparse.Namespace) -> Path:
    """File in which a process that trains the plan says how far it is, while it holds the lock."""
    return Path(given.runs) / "locks" / f"status-{_name(given)}.json"


def _lock(live: Path) -> Path:
    return live.with_suffix(".lock")


def _name(given: argparse.Namespace) -> str:
    """Name what was asked for."""
    asked = {name: getattr(given, name) for name in _ARGUMENTS}
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _grounds(given: argparse.Namespace, reads_folder: bool) -> str | None:
    """Hash all that a plan's state follows from; None when that cannot be known without looking."""
    if plugins.loaded():  # what they register is not among the code that is hashed
        return None
    if "MLFLOW_TRACKING_URI" in os.environ or any(one.startswith("data.") for one in given.assignments):
        return None  # a store that is no file; images outside of the data folder
    total = hashlib.sha256()
    for path in [catalogue.suite_file(given.suite), *_code(), *sorted((given.runs / "teachers").rglob("*"))]:
        if path.is_file():
            total.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    # a device that is chosen automatically
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    total.update(repr([platform.node(), devices, os.environ.get("CUDA_VISIBLE_DEVICES")]).encode())
    total.update(_database(given.runs / "mlflow.db"))
    for path in sorted((given.runs / "work").glob("*/checkpoint")):  # each has its checksum at the head
        with path.open("rb") as file:
            total.update(path.parent.name.encode() + file.read(_HEAD))
    if reads_folder:
        for number, (name, about) in enumerate(_below(given.data)):
            if number >= _MAX_FILES:
                return None
            total.update(f"{name} {about.st_size} {about.st_mtime_ns} ".encode())
    return total.hexdigest()


def _code() -> Iterator[Path]:
    """Files that the signatures of runs follow from."""
    root = Path(__file__).resolve().parents[2]
    for package in ("benchmark", "distillers", "models"):
        for ending in ("py", "yaml"):
            yield from sorted((root / package).rglob(f"*.{ending}"))


def _database(path: Path) -> bytes:
    """Size and header of an SQLite database, in which every transaction is counted, and its journal's size."""
    if not path.exists():
        return b"none"
    with path.open("rb") as file:
        head = file.read(100)
    sizes: Sequence[int] = [one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists()]
    return repr(sizes).encode() + head


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Name and state of every file below a folder."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            with contextlib.suppress(OSError):
                yield f"{os.path.relpath(place, folder)}/{name}", (Path(place) / name).stat()
