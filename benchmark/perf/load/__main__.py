"""Load the suite and measure what it takes: `python -m benchmark.perf.load stores | writers | steady`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmark import command_line

#: a count of runs, seconds, epochs or cohorts
_count = command_line.whole(1, 10_000_000)


def parser() -> command_line.Parser:
    """Define the commands and their arguments."""
    made = command_line.Parser("python -m benchmark.perf.load", description=__doc__)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", parser_class=command_line.Parser)
    many = commands.add_parser("stores", help="time the commands that look, in stores of more and more runs")
    many.add_argument("--sizes", type=_sizes, default=[1_000, 10_000, 100_000], metavar="N,...", help="numbers of runs")
    _add_out(many)
    logging = commands.add_parser("writers", help="let processes log runs into one store at once; count what arrived")
    logging.add_argument("--processes", type=command_line.parallel, default=8, metavar="N", help="processes that write")
    logging.add_argument("--seconds", type=_count, default=600, metavar="S", help="how long they write")
    growing = commands.add_parser("steady", help="watch memory, files and threads over 240 epochs and 50 cohorts")
    growing.add_argument("--epochs", type=_count, default=240, metavar="N", help="epochs of a training")
    growing.add_argument("--cohorts", type=_count, default=50, metavar="N", help="cohorts, one after the other")
    _add_out(growing)
    return made


def _sizes(text: str) -> list[int]:
    return [_count(word) for word in command_line.words(text)]


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/perf"), metavar="DIR", help="folder of the results")


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run a command; return its exit code."""
    made = parser()
    given = made.parse_args(arguments)
    if given.command is None:
        made.print_help()
        return command_line.EXIT_USER_ERROR
    from benchmark import files
    from benchmark.perf.load import steady, stores, writers  # torch and MLflow: after everything that is refused

    with tempfile.TemporaryDirectory() as scratch:
        if given.command == "writers":
            lost = writers.write_at_once(Path(scratch), given.processes, given.seconds, console)
            return 1 if lost else 0
        files.check_writable(given.out, "name a folder with --out")
        if given.command == "stores":
            contents = stores.measure(Path(scratch), given.sizes, console)
        else:
            contents = steady.measure(Path(scratch), given.epochs, given.cohorts, console)
        for name, content in contents.items():
            files.write(given.out / name, content)
            console.print(str(given.out / name), soft_wrap=True)
    return 0


if __name__ == "__main__":
    command_line.run(main)
