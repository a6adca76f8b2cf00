"""How figures look in print: one colour and marker per method, fonts, and files that are the same for the same data.

A family (KD, DKD, ...) has a colour and a marker; its scale-decoupled form has the same, filled and with a solid line,
where the base is open and dashed. So a figure is read without colour too. `studies/figures.py` draws alike.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

import distillers

#: Okabe and Ito's colours, told apart by everyone; in grey, by their markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
#: families that every figure shows alike, whatever else is in it
_FAMILIES = ("kd", "dkd", "nkd", "mlkd")
FAINT = "#8C8C8C"
#: the student alone, and points of the literature
ALONE, PUBLISHED = "#333333", "#8C8C8C"
#: of a text block in inches: figures that are drawn at this width keep their font sizes in print
WIDTH = 6.7

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
    # outlines, not text: the PDF has no font of matplotlib's
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    #: of matplotlib
    line: str
    #: whether the marker is filled
    filled: bool

    def options(self) -> dict[str, Any]:
        """Return what `axes.plot` and `axes.errorbar` take."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgecolor": self.colour,
        }


def look(method: str) -> Look:
    """Return how a method is drawn: a function of its name alone, the same in every figure of every report."""
    if method == "vanilla":
        return Look(ALONE, "X", ":", True)
    base = distillers.registry.get(method).base if method in distillers.registry else None
    family = base or method
    if family in _FAMILIES:
        place = _FAMILIES.index(family)
    else:  # what is added later shares the rest
        rest = len(COLOURS) - len(_FAMILIES)
        place = len(_FAMILIES) + hashlib.sha256(family.encode()).digest()[0] % rest
    return Look(COLOURS[place], MARKERS[place], "-" if base else "--", base is not None)


@contextmanager
def style() -> Iterator[None]:
    """Draw inside of this: fonts and lines of all figures of reports."""
    with matplotlib.rc_context(_RC):
        yield


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that makes room for all its texts."""
    return Figure(figsize=(width, height), layout="constrained")


def saved(figure: Figure) -> dict[str, bytes]:
    """Return the figure as `svg` and `png`: the same bytes for the same figure."""
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
