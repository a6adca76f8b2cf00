"""Mistakes of users: how a command answers them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence

from rich.console import Console

from benchmark import command_line
from benchmark.errors import UserError, one_line


def refusal(main: Callable[[Sequence[str] | None, Console], int], *arguments: str) -> str:
    """Run a command that must refuse its arguments with exit code 2; return its one line, without `error: `."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = main(arguments, Console(file=io.StringIO(), markup=False, highlight=False))
        except UserError as error:
            return one_line(str(error))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    lines = said.getvalue().splitlines()
    if code != command_line.EXIT_USER_ERROR or len(lines) != 1 or not lines[0].startswith("error: "):
        raise AssertionError(f"it did not refuse: exit code {code}, {lines}")
    return lines[0].removeprefix("error: ")
