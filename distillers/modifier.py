"""Modifiers change any method from outside: scale decoupling (`sdd`), or another per-sample loss (`loss_modifier`)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillers.base import LogitDistiller, Parameters

#: values of group fields by convention and group, as `Distiller.conventions` holds them
Conventions = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Modifier:
    """A recipe that turns a method `x` into `<name>_x`, with one more group of hyperparameters, `<name>`.

    The modified class inherits from `mixin`, then from x: the per-sample terms of x pass through `mixin.instance`,
    which calls `super().instance(...)` of x or of the modifier applied before. So modifiers can be combined.
    """

    name: str
    #: printed name and one-line description of the modified method; {} stands for the title of the method
    title: str
    summary: str
    parameters: type[Parameters]
    mixin: type[LogitDistiller]
    #: raise it whenever a change of the modifier makes the losses differ
    numerics_version: int = 1

    def of(self, method: type[LogitDistiller], conventions: Conventions) -> type[LogitDistiller]:
        """Make the class of the modified method; `conventions` override the method's own."""
        body = {
            # Python 3.13 keeps docstrings without their indent, which a join of the two would need
            "__doc__": f"{self.summary.format(method.title)}\n\n{inspect.cleandoc(self.mixin.__doc__ or '')}",
            "__module__": method.__module__,
            "name": f"{self.name}_{method.name}",
            "title": self.title.format(method.title),
            "base": method.name,
            # both only ever rise, so their sum never returns to an old value
            "numerics_version": method.numerics_version + self.numerics_version - 1,
            "groups": {**method.groups, self.name: self.parameters},
            "conventions": overlaid(method.conventions, conventions),
        }
        return type(f"{self.mixin.__name__}{method.__name__}", (self.mixin, method), body)


def overlaid(below: Conventions, above: Conventions) -> Conventions:
    """Merge two sets of conventions field by field; `above` overrides `below`."""
    return {
        convention: {
            group: {**below.get(convention, {}).get(group, {}), **above.get(convention, {}).get(group, {})}
            for group in {**below.get(convention, {}), **above.get(convention, {})}
        }
        for convention in {**below, **above}
    }
