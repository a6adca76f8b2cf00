"""The log of a command that trains: what it said, warnings, and tracebacks in full, as a file under RUNS/logs."""

from __future__ import annotations

import io
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from benchmark import process

#: logs that a runs folder keeps
NUM_KEPT = 100
#: names the log to the processes that a command starts
_VARIABLE = "BENCH_LOG"
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(message)s"

log = logging.getLogger("benchmark")
log.setLevel(logging.INFO)
log.addHandler(logging.NullHandler())  # without a file, tracebacks are not printed a second time


class LoggedConsole(Console):
    """A console whose permanent lines go to the log as well, and which breaks lines at spaces only."""

    def print(self, *objects: Any, **named: Any) -> None:
        """Print, and log the plain text; paths and addresses stay whole, however narrow the terminal is."""
        if all(isinstance(one, str) for one in objects):
            named = {"overflow": "ignore", "crop": False, **named}
        super().print(*objects, **named)
        plain = Console(file=io.StringIO(), width=self.width, markup=False, highlight=False)
        plain.print(*objects, **named)
        text: str = plain.file.getvalue().strip()  # type: ignore[attr-defined]
        if text:  # the moves of a progress bar have none
            log.info(text)


@contextmanager
def kept(runs: Path, command: str, console: Console) -> Iterator[Path]:
    """Log to a new file while a command runs, and yield its path; the oldest files are deleted.

    The path is printed when the command fails; when it ends, it prints it among what it has to say.
    """
    folder = runs / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
    handler = _to(path)
    before, os.environ[_VARIABLE] = os.environ.get(_VARIABLE), str(path)
    show = warnings.showwarning

    def show_and_log(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
        show(message, category, filename, lineno, *more)
        log.warning(warnings.formatwarning(message, category, filename, lineno).strip())

    warnings.showwarning = cast(Any, show_and_log)
    for old in sorted(folder.glob("*.log"), key=lambda one: one.stat().st_mtime)[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
    commit, dirty = process.git_state()
    log.info(f"starts: {process.command_line()}")
    log.info(f"commit {commit}{' (changed)' if dirty else ''}; {process.package_versions()}")
    try:
        yield path
        log.info("ends")
    except BaseException as error:
        log.exception(f"ends with {type(error).__name__}")
        console.print(f"Log: {path}")
        raise
    finally:
        warnings.showwarning = show
        logging.getLogger().removeHandler(handler)
        handler.close()
        os.environ.pop(_VARIABLE) if before is None else os.environ.update({_VARIABLE: before})


def join() -> None:
    """In a process that a command started: log to the command's file, if it has one."""
    if (path := os.environ.get(_VARIABLE)) is not None:
        _to(Path(path))


def _to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)
    return handler
