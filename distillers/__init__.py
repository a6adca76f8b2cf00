"""Logit distillers: `create("sdd_dkd", dkd={"beta": 8}, sdd={"scales": (1, 2, 4)})`, `names("sdd_*")`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from benchmark.errors import UserError, nearest, shown
from benchmark.registry import import_modules
from distillers.base import Convention, Distiller, Outputs, Parameters, registry

import_modules(__name__, list(__path__))

__all__ = ["Distiller", "Outputs", "create", "groups", "names", "registry"]


def create(name: str, *, convention: str = "code", **values: Mapping[str, Any]) -> Distiller:
    """Make a distiller from plain hyperparameters by group; command-line strings are converted.

    `convention` chooses the values that are not given: those of SDD's and MLKD's released code (`code`) or of their
    papers (`paper`). Raises UserError that names the field, the allowed values and, for an unknown name, the nearest
    known one.
    """
    method = registry.get(name)
    if convention not in get_args(Convention):
        raise UserError(f"convention: '{convention}' is neither 'code' nor 'paper'")
    if unknown := [group for group in values if group not in method.groups]:
        known = f"it has {', '.join(method.groups)}" if method.groups else "it has no hyperparameters"
        raise UserError(f"{unknown[0]}: no group of {name}{nearest(unknown[0], method.groups) or ';'} {known}")
    preset = method.conventions.get(convention, {})
    return method(
        **{
            group: _validate(group, parameters, preset.get(group, {}), values.get(group, {}))
            for group, parameters in method.groups.items()
        }
    )


def names(pattern: str = "*") -> list[str]:
    """Names of the registered distillers that match a shell pattern, sorted."""
    return registry.names(pattern)


def groups(name: str) -> Mapping[str, type[Parameters]]:
    """Hyperparameter groups of a distiller, by namespace. Raises UserError for an unknown name."""
    return registry.get(name).groups


def _validate(
    group: str, parameters: type[Parameters], preset: Mapping[str, Any], given: Mapping[str, Any]
) -> Parameters:
    if not isinstance(given, Mapping):
        raise UserError(f"{group}: takes fields by name ({', '.join(parameters.model_fields)}), got {shown(given)}")
    try:
        return parameters(**{**preset, **given})
    except ValidationError as refusal:
        raise UserError("; ".join(_explain(group, parameters, dict(error)) for error in refusal.errors())) from None


def _explain(group: str, parameters: type[Parameters], error: Mapping[str, Any]) -> str:
    field = str(error["loc"][0])
    path = f"{group}.{field}"
    if error["type"] == "extra_forbidden":
        known = parameters.model_fields
        return f"{path}: unknown{nearest(field, known) or ';'} {group} has {', '.join(known)}"
    reason = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    rule = reason if reason.startswith(("must", "cannot")) else f"must be {reason}"
    return f"{path}: {rule}, got {shown(error['input'])}"
