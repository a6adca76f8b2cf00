"""Titles of methods and pairs in tables, and the base method that each gain is measured against."""

from __future__ import annotations

import distillers
from benchmark.analysis.published import VANILLA


def title_of(method: str, alone: str = "student") -> str:
    """A method's title as papers print it, `SD-KD` for `sdd_kd`; `alone` for the student alone; printed names stay."""
    if method == VANILLA:
        return alone
    return distillers.registry.get(method).title if method in distillers.registry else method


def base_of(method: str) -> str | None:
    """The method that a gain is measured against: X for SD-X, the student alone for X, None for the student alone."""
    if method == VANILLA:
        return None
    return distillers.registry.get(method).base or VANILLA


def pair_title(pair: str) -> str:
    """Format `teacher:student` for headings and labels."""
    return pair.replace(":", " → ")
