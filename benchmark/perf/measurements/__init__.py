"""One file per measurement: a new file is measured, tabulated and drawn without any other edit."""

from __future__ import annotations

from benchmark.perf.base import Measurement, registry
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

#: the order of the table; a measurement that is not named here stands at its end
ORDER = (
    "losses",
    "head",
    "teacher",
    "step",
    "cohort",
    "methods",
    "cache",
    "counts",
    "augmentation",
    "loader",
    "epoch",
    "processes",
    "memory",
)


def in_order() -> list[Measurement]:
    """All measurements in the order of the table."""
    return registry.in_order(ORDER)
