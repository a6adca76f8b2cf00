"""Rebuild a suite's tables and figures as a PDF from tracked runs: `python -m reports cub --sections comparison`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from benchmark import catalogue, command_line
from benchmark.errors import UserError


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m reports", description=__doc__)
    command_line.add_choices(made)
    command_line.add_places(made)
    made.add_argument("--list", action="store_true", help="list the sections; make nothing")
    made.add_argument("--sections", type=command_line.words, default=[], metavar="A,B", help="only these sections")
    made.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two suites, or two git commits of one suite, side by side in one table",
    )
    made.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="METHOD",
        help="write METHOD beside the published tables, as LaTeX for a paper (repeatable)",
    )
    made.add_argument(
        "--publish",
        action="store_true",
        help="make no report, but write the suite's ended runs to reports/measured, which ships with the project",
    )
    made.add_argument("--open", action="store_true", help="show the PDF when it is made")
    made.add_argument("--server", metavar="URL", help="address of the tracking UI that numbers link to")
    made.add_argument(
        "--out", type=command_line.folder, metavar="DIR", help="folder for reports (default: RUNS/reports)"
    )
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    if given.list:
        sections = catalogue.known("sections").entries
        width = max(map(len, sections))
        for name, entry in sections.items():
            console.print(f"{name:{width}}  {entry.title}")
        return 0
    command_line.check_names(given)
    if given.publish:
        check_published(given)
    from reports import command  # MLflow, pandas, matplotlib: after everything that is refused without them

    return command.command(given, console)


def check_published(given: argparse.Namespace) -> None:
    """Raise UserError for what is never published, and for options of a report."""
    if given.profile:
        raise UserError(
            f"--publish: the {given.profile} profile is a small slice, not a result; only runs of the full suite ship"
            " with the project: leave out --profile"
        )
    for option in ("sections", "compare", "row", "open", "server", "out"):
        if getattr(given, option):
            raise UserError(f"--publish makes no report: leave out --{option}")


if __name__ == "__main__":
    command_line.run(main)
