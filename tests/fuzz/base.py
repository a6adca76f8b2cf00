"""Fuzzing by number: input `n` of a kind under a seed is the same on every machine, and is run alone by its number.

A kind is a module of `tests/fuzz/kinds`: `generate(rng)` makes an input of plain data (text, bytes, numbers, lists),
and `check(case, folder)` gives it to the code. It may succeed, raise UserError or exit with code 2. All else is a
fault: another exception, a write outside the folder, a connection, a process, more than `LIMIT_S` seconds.
`SHARE` is its share of the inputs, 1 by default.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmark.errors import UserError

#: seconds that one input may take, on a machine that others use too
LIMIT_S = 20.0
#: inputs that are tried to make a failing one smaller
SHRINKS = 300
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod")
_LINKS = ("os.rename", "os.link", "os.symlink")
_FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system",
              "os.exec", "os.posix_spawn", "os.fork", "os.spawn")  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    name: str
    generate: Callable[[random.Random], Any]
    check: Callable[[Any, Path], object]
    share: float

    def case(self, seed: int, number: int) -> Any:
        """Make input `number` of a seed."""
        return self.generate(random.Random(f"{seed} {self.name} {number}"))


def kinds() -> dict[str, Kind]:
    """Every kind by name."""
    found = {}
    for file in sorted((Path(__file__).parent / "kinds").glob("*.py")):
        module = importlib.import_module(f"tests.fuzz.kinds.{file.stem}")
        found[file.stem] = Kind(file.stem, module.generate, module.check, getattr(module, "SHARE", 1.0))
    return found


class _TooSlow(BaseException):
    """Not an Exception, which code under test would turn into an error of its own."""


class Guard:
    """Runs checks, and sees what they do to files, sockets and processes. One per process: its hook stays for ever."""

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] | None = None
        self._seen: list[str] = []
        #: inputs that were not refused
        self.accepted = 0
        sys.addaudithook(self._hook)

    def fault(self, kind: Kind, case: Any, folder: Path) -> str | None:
        """Run one input in an empty folder; describe what it did wrong, the kind of fault on the first line."""
        self._allowed, self._seen = (os.path.realpath(folder) + os.sep, "/dev/null/"), []
        said = io.StringIO()
        usual, tempfile.tempdir = tempfile.tempdir, str(folder)
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.chdir(folder):
                kind.check(case, folder)
                self.accepted += 1
        except UserError as error:
            if not str(error).strip():
                return "an error without words"
        except SystemExit as ended:
            if ended.code != 2:
                return f"exit code {ended.code}"
        except _TooSlow:
            return f"more than {LIMIT_S:.0f} seconds\n{traceback.format_exc()}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} in {Path(last.filename).name}, {last.name}\n{traceback.format_exc()}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._allowed, tempfile.tempdir = None, usual
        if "Traceback (most recent call last)" in said.getvalue():
            return f"a traceback was printed\n{said.getvalue()}"
        return self._seen[0] if self._seen else None

    @staticmethod
    def _ring(_: int, __: FrameType | None) -> None:
        raise _TooSlow

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITES:
                self._written(event, path)
        elif event in _CHANGES:
            self._written(event, arguments[0])
        elif event in _LINKS:
            self._written(event, arguments[1])
        elif event in _FORBIDDEN:
            self._seen.append(f"{event} {arguments!r:.200}")

    def _written(self, event: str, path: object) -> None:
        allowed = self._allowed
        if not isinstance(path, str | bytes | os.PathLike):
            return
        self._allowed = None  # realpath raises events of its own
        text = os.fsdecode(path)
        # names relative to an open folder are those of an rmtree inside ours
        inside = "__pycache__" in text or ("/" not in text and event != "open")
        if not inside and not f"{os.path.realpath(text)}{os.sep}".startswith(allowed or ()):
            self._seen.append(f"outside its folder: {event} {text[:200]!r}")
        self._allowed = allowed


@dataclass(frozen=True)
class Failure:
    """An input that something is wrong with."""

    kind: str
    seed: int
    number: int
    fault: str
    case: Any

    def __str__(self) -> str:
        shown = repr(self.case)
        shown = shown if len(shown) <= 2000 else f"{shown[:2000]}… ({len(shown):,} characters)"
        return (
            f"FAULT {self.kind}, seed {self.seed}, number {self.number}: {self.fault}\nsmallest input found: {shown}\n"
            f"run it alone: python -m tests.fuzz --kind {self.kind} --seed {self.seed} --number {self.number}"
        )


def run(guard: Guard, kind: Kind, seed: int, number: int, folder: Path) -> Failure | None:
    """Run input `number`; a failing one is made smaller while it fails in the same way."""
    case = kind.case(seed, number)
    fault = _in_empty(guard, kind, case, folder)
    if fault is None:
        return None
    accepted = guard.accepted  # its smaller forms are no inputs
    tried = 0
    smaller = True
    while smaller and tried < SHRINKS:
        smaller = False
        for less in simpler(case):
            tried += 1
            found = _in_empty(guard, kind, less, folder)
            if found is not None and found.partition("\n")[0] == fault.partition("\n")[0]:
                case, fault, smaller = less, found, True
                break
            if tried >= SHRINKS:
                break
    guard.accepted = accepted
    return Failure(kind.name, seed, number, fault, case)


def _in_empty(guard: Guard, kind: Kind, case: Any, folder: Path) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return guard.fault(kind, case, folder)
    finally:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink()


def simpler(value: Any) -> Iterator[Any]:
    """Simpler forms of an input, the much simpler ones first."""
    if isinstance(value, str | bytes | list | tuple):
        size = len(value) // 2
        while size:
            for start in range(0, len(value), size):
                yield value[:start] + value[start + size :]
            size //= 2
    if isinstance(value, dict):
        for key in value:
            yield {other: kept for other, kept in value.items() if other != key}
        for key, inner in value.items():
            yield from ({**value, key: less} for less in simpler(inner))
    if isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from (type(value)([*value[:place], less, *value[place + 1 :]]) for less in simpler(inner))
