"""A report as a typst document: content goes in as JSON, never as markup; the same data gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, cast

import typst

from benchmark.errors import UserError
from reports.base import Block, Drawing, Listing, Text

#: files that a document is compiled from, together with its figures
SOURCE, DATA = "report.typ", "report.json"

#: maps the runs behind a number to their address, or to None
Link = Callable[[tuple[str, ...]], str | None]


@dataclass(frozen=True)
class Part:
    """A finished section, with file names that are unique in the report."""

    name: str
    title: str
    blocks: Sequence[Block]


def template() -> bytes:
    """The layout of every report, in typst."""
    return (resources.files("reports") / "template.typ").read_bytes()


def content(
    title: str, subtitle: str, head: str, commit: str, about: Mapping[str, str], parts: Sequence[Part], link: Link
) -> dict[str, Any]:
    """Collect the content of a report in the form that the template reads."""
    return {
        "title": title,
        "subtitle": subtitle,
        "head": head,
        "commit": commit,
        "about": [list(pair) for pair in about.items()],
        "sections": [
            {"name": part.name, "title": part.title, "blocks": [_block(block, link) for block in part.blocks]}
            for part in parts
        ],
    }


def _block(block: Block, link: Link) -> dict[str, Any]:
    match block:
        case Text(text):
            return {"kind": "text", "text": text}
        case Drawing(name, figure, caption):
            width = float(figure.get_size_inches()[0])
            return {"kind": "figure", "path": figure_path(name), "width": width, "caption": caption}
        case Listing(name, table):
            return {"kind": "table", "name": name, **table.to_typst(link)}


def figure_path(name: str) -> str:
    """Path of a figure in the folder of a report."""
    return f"figures/{name}.svg"


def compiled(folder: Path, timestamp: int) -> bytes:
    """Compile a folder that holds the source, the data and the figures to a PDF; offline, with typst's own fonts.

    Raises:
        UserError: when typst refuses the source, with the first reason.
    """
    compiler = typst.Compiler(folder / SOURCE, root=folder, ignore_system_fonts=True)
    try:
        return cast(bytes, compiler.compile(format="pdf", timestamp=datetime.fromtimestamp(timestamp, UTC)))
    except RuntimeError as error:
        raise UserError(f"typst cannot compile {folder / SOURCE}: {str(error).strip().splitlines()[0]}") from error
