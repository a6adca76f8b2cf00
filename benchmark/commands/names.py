"""The names of everything that is registered, without importing it."""

from __future__ import annotations

import textwrap

from rich.console import Console

from benchmark import catalogue
from benchmark.errors import UserError, nearest

#: in the order of the output
KINDS = ("methods", "models", "datasets", "suites", "views", "engines", "studies", "sections", "measurements")
#: kinds whose entries `show` knows
SHOWN = ("methods", "datasets", "models")


def list_names(kind: str | None, console: Console) -> int:
    """Print the names of a kind, or of all kinds, each with a line about it."""
    for one in [kind] if kind else KINDS:
        console.print(one, style="bold")
        rows = _rows(one)
        if one == "models":
            _print_in_lines([name for name, _ in rows], console)
            continue
        width = max(len(name) for name, _ in rows)
        for name, words in rows:
            console.print(f"  {name:{width}}  {words}", overflow="ellipsis", no_wrap=True)
    if not kind:
        console.print("\nDetails of a method, model, data set or suite: `python -m benchmark show NAME`.")
    return 0


def check_shown(name: str) -> None:
    """Raise UserError for a name that is no method, model, data set or suite."""
    kinds = [catalogue.known(kind) for kind in SHOWN]
    every = [*catalogue.suites(), *(entry for names in kinds for entry in names.entries)]
    if name not in every and not any(name in names for names in kinds):
        raise UserError(f"nothing is called '{name}'{nearest(name, every) or ';'} see `python -m benchmark list`")


def _rows(kind: str) -> list[tuple[str, str]]:
    """Names of a kind, with what is printed beside them."""
    if kind == "suites":
        return [(name, str(catalogue.suite_fields(name)["title"])) for name in catalogue.suites()]
    names = catalogue.known(kind)
    families = [(f"{family}/<name>", "") for family in names.families]
    rows = []
    for one in names.entries.values():
        title = one.title + (f" ({one.group})" if one.group else "")
        rows.append((one.name, ": ".join(filter(None, (title, one.summary)))))
    return [*rows, *families]


def _print_in_lines(names: list[str], console: Console) -> None:
    """Print names side by side, never broken."""
    text = textwrap.fill(
        "  ".join(names),
        min(100, console.width),
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    console.print(text, soft_wrap=True)
