"""Train a suite and tabulate it: `python -m benchmark.run cub --methods kd,sdd_kd --seeds 3 --set sdd.beta=4`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from benchmark import command_line, process


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.run", description=__doc__)
    command_line.add_choices(made)
    command_line.add_places(made)
    command_line.add_device(made)
    command_line.add_cache_limit(made)
    made.add_argument("--dry-run", action="store_true", help="print the plan and its estimate; train nothing")
    made.add_argument("--retry-failed", action="store_true", help="retry runs whose loss was not finite")
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    command_line.check_names(given)
    with command_line.ended_in_time(given):
        from benchmark.commands import train  # torch, MLflow, pandas: after everything that is refused without them

        if process.launched() is not None:
            return train.command_of_torchrun(given, console)
        return train.command(given, console)


if __name__ == "__main__":
    command_line.run(main)
