"""Engines, which run cohorts: one file each; a new file in this folder that registers an engine adds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields

from benchmark.execution.engines.base import Engine, registry
from benchmark.execution.options import Options
from benchmark.registry import import_modules

import_modules(__name__, list(__path__))

__all__ = ["Engine", "create", "names", "registry"]


def create(options: Options, should_stop: Callable[[], bool]) -> Engine:
    """Make the engine of a command. Its factory gets, by name, those of the options that it has parameters for."""
    factory = registry.get(options.engine)
    wanted = inspect.signature(factory).parameters.keys() - {"workers"}
    own = {field.name: getattr(options, field.name) for field in fields(options) if field.name in wanted}
    return factory(options.workers, should_stop, **own)


def names() -> list[str]:
    """Names of the engines, sorted."""
    return registry.names()
