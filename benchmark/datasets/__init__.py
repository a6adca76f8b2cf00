"""Data sets by name. A new file in this folder that registers a factory is a new data set."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from benchmark.config import Data
from benchmark.datasets.base import DataSet, registry
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

__all__ = ["DataSet", "create", "load", "names", "options", "registry"]


def create(name: str, root: Path, **options: Any) -> DataSet:
    """Return the named data set from the folder `root`.

    Raises:
        UserError: for an unknown name, and for data that is missing or damaged, with where to get it.
    """
    return registry.get(name)(root, **options)


def names(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern."""
    return registry.names(pattern)


def options(name: str) -> list[str]:
    """Return the names of a data set's own options, e.g. `path` of `folder`."""
    return [key for key in inspect.signature(registry.get(name)).parameters if key not in ("root", "download")]


def load(config: Data, root: Path, cache: Path, download: bool = False) -> DataSet:
    """Return the data set that a run's data fields name, from the folder of all data, decoded through the cache.

    Raises:
        UserError: for data that is missing or damaged, with where to get it.
    """
    factory = registry.get(config.name)
    accepted = inspect.signature(factory).parameters
    given = {"cache": cache, "download": download, **config.options}
    return factory(root, **{key: value for key, value in given.items() if key in accepted})
