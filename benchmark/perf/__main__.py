"""Measure the released training iteration against ours: `python -m benchmark.perf --quick --only losses,step`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from benchmark import catalogue, command_line
from benchmark.errors import UserError, among


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.perf", description=__doc__)
    made.add_argument(
        "--quick", action="store_true", help="smaller and fewer measurements: two to three minutes on two cores"
    )
    made.add_argument(
        "--only",
        metavar="NAME,...",
        help="only these measurements, from: " + ", ".join(catalogue.known("measurements").entries),
    )
    made.add_argument(
        "--threads", type=command_line.parallel, metavar="N", help="threads of both loops (default: all cores)"
    )
    made.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: auto)")
    made.add_argument(
        "--out",
        type=command_line.folder,
        default="runs/perf",
        metavar="DIR",
        help="folder of the results (default: runs/perf)",
    )
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code: 1 when a measurement ended early."""
    given = parser().parse_args(arguments)
    chosen = selected(given.only)
    command_line.check_names(given)
    from benchmark.perf import command  # torch: after everything that is refused without it

    return command.command(given, chosen, arguments, console)


def selected(names: str | None) -> list[str]:
    """Select measurements by comma-separated names, in the table's order; all of them without names.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    known = catalogue.known("measurements").entries
    if names is None:
        return list(known)
    wanted = command_line.words(names)
    for name in wanted:
        if name not in known:
            raise UserError(f"--only: no measurement '{name}'{among(name, known)}")
    if not wanted:
        raise UserError(f"--only: name one or more of {', '.join(known)}")
    return [name for name in known if name in wanted]


if __name__ == "__main__":
    command_line.run(main)
