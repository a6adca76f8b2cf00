"""Engines, which run cohorts: one file each; a new file in this folder that registers an engine adds it."""

from __future__ import annotations

from benchmark.execution.engines.base import Engine, registry
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

__all__ = ["Engine", "names", "registry"]


def names() -> list[str]:
    """Names of the engines, sorted."""
    return registry.names()
