"""What a check is given and what it finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from benchmark import tracking
from benchmark.errors import UserError
from benchmark.execution.options import Options

Mark = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line about one thing: whether it is well, and how to mend it when it is not."""

    mark: Mark
    text: str
    #: mends it, where that is safe, and says what was done; a UserError when it cannot be
    mend: Callable[[], str] | None = None


@dataclass(frozen=True)
class Places:
    """The folders that are examined."""

    options: Options

    @property
    def runs(self) -> Path:
        """The runs folder."""
        return self.options.runs

    @cached_property
    def tracker(self) -> tracking.Tracker | None:
        """The tracking store, None when there is none yet. Raises UserError when it does not open."""
        return tracking.open_existing(self.runs)


Check = Callable[[Places], Iterator[Finding]]


def size_text(num_bytes: float) -> str:
    """Format a size for reading: `3.2 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"


def size_of(folder: Path) -> int:
    """Bytes that a file, or all files below a folder, take on the disk, without holes."""
    return sum(512 * path.lstat().st_blocks for path in [folder, *folder.rglob("*")] if not path.is_dir())


def deleting(lock_file: Path, *paths: Path) -> Callable[[], str]:
    """Make a function that deletes files and folders under their lock, unless a process holds that."""

    def delete() -> str:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock_file, timeout=0):
                for path in paths:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except Timeout as error:
            raise UserError(f"{paths[0]} stays: a process holds {lock_file.name}") from error
        return f"deleted {', '.join(map(str, paths))}"

    return delete
