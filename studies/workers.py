"""Processes that run the trials of one study together, each a command of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmark import command_line, machine
from benchmark.errors import UserError
from benchmark.execution.options import Options
from studies.search import ENDED, Search, slug
from studies.tables import words_of
from studies.trials import Ended

POLL_SECONDS = 1.0
#: seconds that this process needs once the others have ended by their deadline
_CONCLUDING_S = 4.0


@dataclass(frozen=True)
class _Process:
    """A process that runs trials of the study, and its log file."""

    number: int
    popen: subprocess.Popen[bytes]
    log: Path


def end_with_stdin() -> None:
    """Stop this process as SIGTERM does, once the process that holds the other end of its stdin is gone."""

    def wait() -> None:
        with open(0, "rb", closefd=False) as stdin:
            stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def watch(arguments: Sequence[str] | None, search: Search, processes: int, options: Options, console: Console) -> Ended:
    """Run the study in processes that share the workers, print every trial that ends, and return how they ended.

    A process that dies is reported: its trials are re-queued and taken by the others, or by this process in the end.
    Under a deadline the processes end by themselves, some seconds before it.
    """
    own = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--fresh"]
    command = [
        sys.executable,
        "-m",
        "benchmark.study",
        *own,
        "--workers",
        str(options.workers // processes),
        "--join",
        command_line.END_WITH_STDIN,
    ]
    if options.deadline is not None:  # the last one that is given counts
        command += ["--deadline", f"{max(1, int(options.deadline - time.monotonic() - _CONCLUDING_S))}s"]
    seen = {trial.number for trial in search.trials() if trial.state in ENDED}
    how = Ended.DONE
    with contextlib.ExitStack() as held:
        running = []
        for number in range(1, processes + 1):
            gpus = machine.gpus_of(number - 1, processes) if options.device == "cuda" else {}
            running.append(_started(number, command, gpus, search, held))
        while running:
            try:
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                how = Ended.STOPPED
                console.print("Stopping: every student is saved, running trials are re-queued ...")
                for process in running:
                    process.popen.terminate()
            _print_ended(search, seen, console)
            ended = [process for process in running if not _is_running(process, console)]
            running = [process for process in running if process not in ended]
            if how is Ended.DONE and any(process.popen.returncode == Ended.OUT_OF_TIME for process in ended):
                how = Ended.OUT_OF_TIME
    return how


def _started(
    number: int, command: Sequence[str], gpus: Mapping[str, str], search: Search, held: contextlib.ExitStack
) -> _Process:
    log = search.folder / f"{slug(search.title)}-worker-{number}.log"
    output = held.enter_context(log.open("wb"))
    # a group of its own: Ctrl-C in a terminal reaches this process alone, which passes it on, once
    popen = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **gpus},
        start_new_session=True,
    )
    held.callback(_end, popen)
    return _Process(number, popen, log)


def _print_ended(search: Search, seen: set[int], console: Console) -> None:
    """Print the trials that ended since the last look, and note them as seen."""
    try:
        trials = search.trials()
    except UserError:  # the storage is away for a while: its workers say so when they need it
        return
    for trial in trials:
        if trial.state in ENDED and trial.number not in seen:
            seen.add(trial.number)
            console.print(words_of(trial), soft_wrap=True)


def _is_running(process: _Process, console: Console) -> bool:
    """Whether a process still runs; print its death, and raise its UserError."""
    code = process.popen.poll()
    if code is None:
        return True
    if code == command_line.EXIT_USER_ERROR:
        said = process.log.read_text().strip().splitlines() or ["it printed nothing"]
        raise UserError(f"worker {process.number}: {said[-1].removeprefix('error: ')}")
    if code not in (*Ended, -signal.SIGTERM):  # stopped: at its work, or before it had begun
        console.print(
            f"worker {process.number} ended with {code}: its trials are re-queued ({process.log})", soft_wrap=True
        )
    return False


def _end(popen: subprocess.Popen[bytes]) -> None:
    """Stop a process that still runs, so that it saves its students and re-queues its trials; wait for it."""
    if popen.poll() is None:
        popen.terminate()
        popen.wait()
