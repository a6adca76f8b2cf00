"""Sections of the report: a new file in this folder that registers a section adds it to the report."""

from __future__ import annotations

from benchmark.registry import import_modules
from reports.base import ReportSection, registry

import_modules(__name__, list(__path__))

#: the order of the report; a section that is not named here stands at its end
ORDER = (
    "result",
    "verdict",
    "comparison",
    "ablations",
    "selection",
    "curves",
    "cost",
    "correlation",
    "literature",
    "coverage",
    "provenance",
)


def in_order() -> list[ReportSection]:
    """All sections in the order of the report."""
    return registry.in_order(ORDER)
