"""The look of methods in a report: one colour and marker each.

A family (KD, DKD, ...) has a colour and a marker; its scale-decoupled form has the same, filled and with a solid line,
where the base is open and dashed. So a figure can be read without colour too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import distillers
from benchmark.analysis.style import COLOURS, FAINT, MARKERS, canvas, saved, style

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.ticker import MaxNLocator

__all__ = [
    "ALONE",
    "COLOURS",
    "FAINT",
    "MARKERS",
    "PUBLISHED",
    "WIDTH",
    "Look",
    "canvas",
    "look",
    "saved",
    "style",
    "whole_numbers",
]

#: families that look the same in every figure
_FAMILIES = ("kd", "dkd", "nkd", "mlkd")
#: the student alone, and points of the literature
ALONE, PUBLISHED = "#333333", "#8C8C8C"
#: width of a text block in inches: figures that are drawn at this width keep their font sizes in print
WIDTH = 6.7


@dataclass(frozen=True)
class Look:
    """The colour, marker and line of a method."""

    colour: str
    marker: str
    #: line style of matplotlib
    line: str
    #: whether the marker is filled
    filled: bool

    def options(self) -> dict[str, Any]:
        """The look as keyword arguments of `axes.plot` and `axes.errorbar`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgecolor": self.colour,
        }


def look(method: str) -> Look:
    """Choose the look of a method from its name alone: the same in every figure of every report."""
    if method == "vanilla":
        return Look(ALONE, "X", ":", True)
    base = base_of(method)
    family = base or method
    if family in _FAMILIES:
        place = _FAMILIES.index(family)
    else:  # families that are added later share the rest
        rest = len(COLOURS) - len(_FAMILIES)
        place = len(_FAMILIES) + hashlib.sha256(family.encode()).digest()[0] % rest
    return numbered(place, base is not None)


def base_of(method: str) -> str | None:
    """The method that a method's gain is over; None for one without, and for one that is not registered here."""
    return distillers.registry.get(method).base if method in distillers.registry else None


def numbered(place: int, is_form: bool) -> Look:
    """The look of the method at a place of a panel that has a legend of its own: any colour is as good there."""
    place %= len(COLOURS)
    return Look(COLOURS[place], MARKERS[place], "-" if is_form else "--", is_form)


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only, also where the axis shows a single one."""
    cast("MaxNLocator", axis.get_major_locator()).set_params(integer=True, min_n_ticks=1)
