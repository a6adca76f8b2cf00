"""The style of printed figures: fonts, lines, colours, and files that are the same for the same data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes a second to import: only commands that draw wait for it

#: Okabe and Ito's colours, which everyone can tell apart; in grey, the markers tell them apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAINT = "#8C8C8C"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.markersize": 5,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "reports",
    # outlines, not text: the PDF does not embed matplotlib's fonts
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the fonts and lines of all figures to drawings inside the block."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def canvas(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, with a layout that leaves room for all its texts."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def saved(figure: Figure) -> dict[str, bytes]:
    """Render the figure as `svg` and `png`: the same bytes for the same figure."""
    options: dict[str, dict[str, Any]] = {
        "svg": {"metadata": {"Date": None}},
        "png": {"dpi": 200, "metadata": {"Software": None}},
    }
    files = {}
    for kind, given in options.items():
        buffer = io.BytesIO()
        with style():
            figure.savefig(buffer, format=kind, **given)
        files[kind] = buffer.getvalue()
    return files
