"""Simulate a large plan on 1 to 512 workers, with the real planner: `python -m benchmark.perf.simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from benchmark import command_line

_count = command_line.whole(1, 100_000)


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.perf.simulate", description=__doc__)
    made.add_argument("--methods", default="logit", metavar="NAME,...", help="methods and groups (default: logit)")
    made.add_argument("--seeds", type=_count, default=17, metavar="N", help="seeds (default: 17)")
    made.add_argument("--workers", type=_counts, default=[2**one for one in range(10)], metavar="N,...",
                      help="numbers of workers (default: 1 to 512)")  # fmt: skip
    made.add_argument("--compare", type=_counts, default=[], metavar="N,...",
                      help="numbers of --workers at which other ways to make cohorts are compared")  # fmt: skip
    made.add_argument("--costs", choices=("gpu", "cpu"), default="gpu",
                      help="what training costs: measured on a CPU, or estimated for a GPU (default)")  # fmt: skip
    made.add_argument("--life", type=_count, default=24, metavar="HOURS",
                      help="mean time between two deaths of a worker (default: 24)")  # fmt: skip
    made.add_argument("--random", type=_count, default=1, metavar="N", help="seed of the deaths (default: 1)")
    made.add_argument("--name", default="simulate", help="name of the result files (default: simulate)")
    made.add_argument("--out", type=command_line.folder, default="runs/perf", metavar="DIR",
                      help="folder of the results (default: runs/perf)")  # fmt: skip
    return made


def _counts(text: str) -> list[int]:
    return [_count(word) for word in command_line.words(text)]


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given: argparse.Namespace = parser().parse_args(arguments)
    from benchmark.perf.simulate import command  # torch and MLflow: after everything that is refused

    return command.command(given, console)


if __name__ == "__main__":
    command_line.run(main)
