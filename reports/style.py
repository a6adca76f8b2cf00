"""How methods look in a report: one colour and marker each.

A family (KD, DKD, ...) has a colour and a marker; its scale-decoupled form has the same, filled and with a solid line,
where the base is open and dashed. So a figure is read without colour too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import distillers
from benchmark.analysis.style import COLOURS, FAINT, MARKERS, canvas, saved, style

__all__ = ["ALONE", "COLOURS", "FAINT", "MARKERS", "PUBLISHED", "WIDTH", "Look", "canvas", "look", "saved", "style"]

#: families that every figure shows alike, whatever else is in it
_FAMILIES = ("kd", "dkd", "nkd", "mlkd")
#: the student alone, and points of the literature
ALONE, PUBLISHED = "#333333", "#8C8C8C"
#: of a text block in inches: figures that are drawn at this width keep their font sizes in print
WIDTH = 6.7


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
