"""Groups of methods by name, derived from what is registered and from a suite's own list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import distillers
from benchmark.catalogue import METHOD_GROUPS, group_of
from benchmark.errors import UserError


def expand(chosen: Iterable[str], own: Sequence[str]) -> tuple[str, ...]:
    """Put the methods of groups in the place of their names; each method once. `own` is the suite's list.

    Raises UserError for a group whose name a method has taken.
    """
    return tuple(dict.fromkeys(method for name in chosen for method in _methods(name, own)))


def _methods(name: str, own: Sequence[str]) -> Sequence[str]:
    """Methods of a group: the suite's own in its order, then on logits, then on features; or the method itself."""
    if name not in METHOD_GROUPS:
        return [name]
    if name in distillers.registry:
        raise UserError(f"'{name}' is both a method and the group of {METHOD_GROUPS[name]}: rename the method")
    others = _bases_first(name for name in distillers.names() if name not in own)
    kind = {method: group_of(distillers.registry.get(method).sees) for method in [*own, *others]}
    logit, feature = ([method for method in kind if kind[method] == group] for group in ("logit", "feature"))
    return {
        "logit": logit,
        "feature": feature,
        "paper": own,
        "later": [method for method in logit if method not in own],
        "all": list(dict.fromkeys([*own, *logit, *feature])),
    }[name]


def _bases_first(names: Iterable[str]) -> list[str]:
    """Sort methods by name, each followed by those whose gain is over it."""
    every = sorted(names)
    base = {name: distillers.registry.get(name).base for name in every}

    def followed(name: str) -> list[str]:
        return [name, *(later for form in every if base[form] == name for later in followed(form))]

    return [method for root in every if base[root] not in base for method in followed(root)]
