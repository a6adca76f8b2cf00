"""Where cohorts run: one file per engine; a new file in this folder that registers one is a new engine."""

from __future__ import annotations

from benchmark.execution.engines.base import Engine, registry
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

__all__ = ["Engine", "names", "registry"]


def names() -> list[str]:
    """Return the names of the engines, sorted."""
    return registry.names()
