"""Data sets by name. A new file in this folder that registers a factory adds a data set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from benchmark.config import Data
from benchmark.datasets.base import CHOOSES_IMAGES, DataSet, Known, registry
from benchmark.errors import UserError, among, shown, unprintable
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

#: options that say where images are kept and how they are read; they do not change the images
PLACES = ("cache", "memory_gb", "num_workers")

__all__ = ["DataSet", "checked_options", "choices", "create", "known", "load", "names", "options", "registry"]


def create(name: str, root: Path, **options: Any) -> DataSet:
    """Create the named data set from the folder `root`.

    Raises:
        UserError: for an unknown name, and for data that is missing or damaged, with where to get it.
    """
    return registry.get(name)(root, **options)


def names(pattern: str = "*") -> list[str]:
    """Names of the registered data sets that match a shell pattern, sorted."""
    return registry.names(pattern)


def options(name: str) -> dict[str, Any]:
    """Options of a data set and their types, e.g. `path` of `folder`."""
    factory = registry.get(name)
    hints = get_type_hints(factory, include_extras=True)  # with their bounds
    return {
        key: hints[key] for key in inspect.signature(factory).parameters if key not in ("root", "download", "render")
    }


def choices(name: str) -> tuple[str, ...]:
    """List the options that say which images a data set holds, e.g. `path` of `folder`."""
    hints = get_type_hints(registry.get(name), include_extras=True)
    return tuple(key for key, hint in hints.items() if CHOOSES_IMAGES in getattr(hint, "__metadata__", ()))


def known(config: Data) -> Known:
    """What is known of a run's images before they are read."""
    factory = registry.get(config.name)
    stated = getattr(get_type_hints(factory, include_extras=True).get("return"), "__metadata__", ())
    found = next((one for one in stated if isinstance(one, Known)), Known())
    if "image_size" in (accepted := inspect.signature(factory).parameters):
        found = found._replace(image_size=config.options.get("image_size", accepted["image_size"].default))
    return found


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a data set's options to their types.

    Raises:
        UserError: for an unknown option or a value of another type, naming the field.
    """
    known = options(name)
    checked = {}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"data.{key}: unknown key{among(key, known)}")
        try:
            checked[key] = TypeAdapter(known[key]).validate_python(value)
        except ValidationError as error:
            raise UserError(f"data.{key}: {error.errors()[0]['msg'].lower()} (got {shown(value)})") from error
        if isinstance(checked[key], str | Path) and (fault := unprintable(str(checked[key]))):
            raise UserError(f"data.{key}: {shown(value)} {fault}; rename it")
    return checked


def load(config: Data, root: Path, cache: Path, download: bool = False, render: bool = False) -> DataSet:
    """Load the data set that a run's data fields name, from the folder of all data, decoded through the cache.

    Missing files are fetched with `download`, and images that code makes are stored in the cache with `render`.

    Raises:
        UserError: for data that is missing or damaged, with where to get it.
    """
    factory = registry.get(config.name)
    accepted = inspect.signature(factory).parameters
    given = {"cache": cache, "download": download, "render": render, **checked_options(config.name, config.options)}
    return factory(root, **{key: value for key, value in given.items() if key in accepted})
