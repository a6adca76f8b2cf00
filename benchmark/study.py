"""Answer a question with a search: `python -m benchmark.study sdd_beta --suite cifar100 --pair resnet32x4:resnet8x4`.

Trials train on a split of the training set and are ranked on its validation part; only accuracies that are confirmed
afterwards, on the whole training set under fresh seeds, are called results. The machinery is in `studies`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from benchmark import catalogue, command_line, process
from benchmark.errors import UserError


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.study", description=__doc__)
    made.add_argument("study", nargs="?", help="a study's name (default: list all studies)")
    made.add_argument("--suite", default="digits", help="a suite's name or a path to its .yaml (default: digits)")
    made.add_argument("--pair", metavar="T:S", help="teacher:student (default: the suite's first)")
    made.add_argument("--profile", metavar="NAME", help="another form of the suite, e.g. smoke, a small one")
    command_line.add_assignments(made)
    made.add_argument(
        "--trials",
        type=command_line.whole(1, 100_000),
        metavar="N",
        help="number of trials of a sampler (a grid has its own)",
    )
    made.add_argument(
        "--timeout", type=command_line.amount("seconds"), metavar="SECONDS", help="start no more trials after this time"
    )
    made.add_argument(
        "--confirm",
        type=command_line.whole(0, catalogue.MAX_SEEDS),
        default=3,
        metavar="N",
        help="seeds of the confirmation (default: 3; 0: no confirmation)",
    )
    made.add_argument(
        "--storage", metavar="URL", help="postgresql+psycopg://... for several machines (default: a journal)"
    )
    made.add_argument(
        "--fresh", action="store_true", help="start the study from the beginning; its trained runs are kept"
    )
    made.add_argument("--show", action="store_true", help="print the trials and how many are left; train nothing")
    made.add_argument("--join", action="store_true", help="run trials only; skip figures and confirmation")
    made.add_argument(command_line.END_WITH_STDIN, action="store_true", help=argparse.SUPPRESS)
    command_line.add_places(made)
    command_line.add_device(made)
    command_line.add_cache_limit(made)
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    if given.study is None:
        return list_studies(console)
    command_line.check_names(given)
    if process.launched() is not None:
        raise UserError(
            "torchrun starts a study in each of its processes: start it with python, and let processes share every"
            " student with --set ranks=N"
        )
    with command_line.ended_in_time(given):
        from studies import command  # torch, MLflow, pandas: after everything that is refused without them

        return command.command(given, arguments, console)


def list_studies(console: Console) -> int:
    """Print every study and its question."""
    studies = catalogue.known("studies").entries
    width = max(map(len, studies))
    for name, entry in studies.items():
        console.print(f"  {name:{width}}  {entry.summary}", soft_wrap=True)
    console.print("\nStart or resume a study with `python -m benchmark.study NAME`.")
    console.print("Suites, methods and models: `python -m benchmark list`.")
    return 0


if __name__ == "__main__":
    command_line.run(main)
