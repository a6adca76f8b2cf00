"""Atomic file writes (temporary file, fsync, rename), and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

from benchmark.errors import UserError


def say(line: str) -> None:
    """Print a line about a long step to stderr, where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)
    logging.getLogger(__name__).info(line)


def resolved(path: Path) -> Path:
    """Follow all links of a path. Raises RuntimeError for links in a circle, which Python 3.13 leaves as they are."""
    found = path.resolve()
    if any(place.is_symlink() for place in (found, *found.parents)):
        raise RuntimeError(f"Symlink loop from {str(path)!r}")
    return found


@contextmanager
def locked(path: Path, way_out: str = "make it writable, or use another folder") -> Iterator[None]:
    """Hold the lock that guards `path` between processes; make its folder. Raises UserError when it is not writable."""
    lock = filelock.FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that is making {path}")
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error}): {way_out}") from error
    try:
        yield
    finally:
        lock.release()


def is_free(lock_file: Path) -> bool:
    """Whether no process holds the lock of this file; a missing file counts as free."""
    if not lock_file.exists():
        return True
    try:
        is_writable = True
        try:
            file: BinaryIO = lock_file.open("r+b")  # NFS locks only what is open for writing
        except OSError:  # another user's, or on a disk that cannot be written
            file, is_writable = lock_file.open("rb"), False
        with file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError as error:
        # what is open for reading and cannot be locked may be held: nothing tells
        return is_writable and error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def check_writable(folder: Path, way_out: str = "name another folder for what is new with --runs") -> None:
    """Make a folder. Raises UserError when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; what is there can be listed and reported on:"
            f" {way_out}"
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that atomically becomes `path` when the block succeeds, and is deleted when it fails.

    The file is synced first. Two processes must not write the same path at once: hold a lock.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # the rename itself must survive a power cut
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write(
    path: Path, *parts: bytes | memoryview, way_out: str = "free some space, or name another folder with --runs"
) -> None:
    """Write a file atomically; make its folder.

    Raises:
        UserError: when the disk is full or the folder cannot be written; a file already at `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.writelines(parts)
    except OSError as error:
        kept = "; the file that was there is untouched" if path.exists() else ""
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}{kept}; {way_out}") from error
