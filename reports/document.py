"""A report as plain data, which the PDF and the HTML page show alike: no text in it is ever read as markup."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reports.base import Block, Command, Drawing, Listing, Text

#: maps the runs behind a number to their address, or to None
Link = Callable[[tuple[str, ...]], str | None]

#: characters of a line of a command, so that it stands whole on a page and is pasted whole
COMMAND_WIDTH = 84


@dataclass(frozen=True)
class Part:
    """A finished section, with file names that are unique in the report."""

    name: str
    title: str
    blocks: Sequence[Block]


def content(
    title: str, subtitle: str, head: str, commit: str, parts: Sequence[Part], empty: Sequence[str], link: Link
) -> dict[str, Any]:
    """Collect the content of a report in the form that the templates read."""
    return {
        "title": title,
        "subtitle": subtitle,
        "head": head,
        "commit": commit,
        "sections": [
            {"name": part.name, "title": part.title, "blocks": [_block(block, link) for block in part.blocks]}
            for part in parts
        ],
        "empty": list(empty),
    }


def _block(block: Block, link: Link) -> dict[str, Any]:
    match block:
        case Text(text):
            return {"kind": "text", "text": text}
        case Command(text, command):
            return {"kind": "command", "text": text, "command": "\n".join(map(wrapped, command.splitlines()))}
        case Drawing(name, figure, caption):
            width = float(figure.get_size_inches()[0])
            return {"kind": "figure", "path": figure_path(name), "width": width, "caption": caption}
        case Listing(name, table):
            return {"kind": "table", "name": name, **table.to_typst(link)}


def figure_path(name: str) -> str:
    """Path of a figure in the folder of a report."""
    return f"figures/{name}.svg"


def wrapped(command: str, width: int = COMMAND_WIDTH) -> str:
    """Break a shell command into lines with a backslash, before its options: what is pasted is the same command."""
    first, *options = re.split(r" (?=--)", command)
    lines = [first]
    for option in options:
        if len(lines[-1]) + 1 + len(option) > width - 2:
            lines.append("    " + option)
        else:
            lines[-1] += " " + option
    return " \\\n".join(lines)
