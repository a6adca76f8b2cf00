"""Logit distillers: `loss("sdd_kd", scales=(1, 2, 4))` for a training loop of one's own, `create` for the harness's.

`adapt` splits a classifier of torchvision or timm into the feature map and the head that scale decoupling needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from benchmark.errors import UserError, nearest, shown
from benchmark.registry import import_modules
from distillers.base import Convention, Distiller, Outputs, Parameters, registry
from distillers.classifiers import adapt
from distillers.own_loop import Loss, by_group

import_modules(__name__, list(__path__))

__all__ = ["Distiller", "Loss", "Outputs", "adapt", "create", "groups", "loss", "names", "registry"]


def loss(name: str, /, *, convention: str = "code", **hyperparameters: Any) -> Loss:
    """Make a method's training loss from plain hyperparameters: `loss("sdd_kd", scales=(1, 2, 4), temperature=2)`.

    A hyperparameter that two of its groups have, such as `beta` of `sdd_dkd`, is given by group: `dkd={"beta": 8}`.
    How it is called is said at `Loss`. Raises UserError as `create` does.
    """
    return Loss(create(name, convention=convention, **by_group(name, hyperparameters)))


def create(name: str, *, convention: str = "code", **values: Mapping[str, Any]) -> Distiller:
    """Make a distiller from hyperparameters by group; command-line strings are converted.

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
