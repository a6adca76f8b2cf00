"""What commands import and how long they compute, in a process of their own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

#: what takes a second or more to import, or brings what does
HEAVY = {"torch", "torchvision", "mlflow", "pandas", "scipy", "matplotlib", "optuna", "sklearn", "numpy"}
_PROBE = """
import json, runpy, sys
try:
    for module, *words in json.loads(sys.argv[1]):
        sys.argv[1:] = words
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit:
            pass
finally:
    print("imported", *sorted({heavy} & sys.modules.keys()), file=sys.stderr)
"""


@dataclass(frozen=True)
class Footprint:
    """Commands that have ended."""

    heavy: set[str]
    cpu_s: float
    stdout: str
    stderr: str


def of(words: Sequence[str]) -> Footprint:
    """Run `python -m <words>` to its end."""
    return of_all([words])


def of_all(commands: Sequence[Sequence[str]]) -> Footprint:
    """Run commands to their ends, one after the other in one process."""
    done, seconds = _run(_PROBE.format(heavy=HEAVY), json.dumps([list(words) for words in commands]))
    imported = next(line for line in done.stderr.splitlines() if line.partition(" ")[0] == "imported")
    return Footprint(set(imported.split()[1:]), seconds, done.stdout, done.stderr)


def cpu_s_of(program: str) -> float:
    """CPU-seconds of a process that runs a program."""
    return _run(program)[1]


def start_s() -> float:
    """CPU-seconds of a start without anything heavy: a measure of this machine.

    Machines differ by a factor of three: on one where a command takes half a second, this takes a tenth of one.
    """
    return min(cpu_s_of("import rich.console, rich.table, yaml") for _ in range(3))


def _run(program: str, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
