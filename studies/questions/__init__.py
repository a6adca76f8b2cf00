"""Studies by name: a new file in this folder that registers a study is a new study."""

from __future__ import annotations

from benchmark.registry import import_modules
from studies.base import Choice, PublishedLine, Study, registry

import_modules(__name__, list(__path__))

__all__ = ["Choice", "PublishedLine", "Study", "names", "registry"]


def names(pattern: str = "*") -> list[str]:
    """Names of the registered studies that match a shell pattern, sorted."""
    return registry.names(pattern)
