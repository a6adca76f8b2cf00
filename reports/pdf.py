"""A report as a PDF by typst: content goes in as JSON, never as markup; the same data gives the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import cast

import typst

from benchmark.errors import UserError

#: files that a document is compiled from, together with its figures
SOURCE, DATA = "report.typ", "report.json"


def template() -> bytes:
    """The layout of every report, in typst."""
    return (resources.files("reports") / "template.typ").read_bytes()


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
