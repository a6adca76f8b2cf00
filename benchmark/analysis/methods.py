"""How methods are called in tables, and the method that each one's gain is over."""

from __future__ import annotations

import distillers
from benchmark.analysis.published import VANILLA


def title_of(method: str, alone: str = "student") -> str:
    """The title that papers print, `SD-KD` for `sdd_kd`; `alone` for the student alone; a printed name stays."""
    if method == VANILLA:
        return alone
    return distillers.registry.get(method).title if method in distillers.registry else method


def base_of(method: str) -> str | None:
    """The method that the gain is over: X for SD-X, the student alone for X; None for the student alone."""
    if method == VANILLA:
        return None
    return distillers.registry.get(method).base or VANILLA
