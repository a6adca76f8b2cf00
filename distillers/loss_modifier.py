"""The short way to a modifier: a function that changes any per-sample loss, and the methods that it applies to.

    @loss_modifier("ls", title="{}+LS", of={KD: {"temperature": 2, "weight": 9}, DKD: {}})
    class LS(LossModifier):
        def modified(self, loss):
            def standardized(student_NK, teacher_NK, target_N):
                return loss(standardize(student_NK), standardize(teacher_NK), target_N)

            return standardized

registers `ls_kd` and `ls_dkd`, whose gains are over `kd` and `dkd`, with their scale-decoupled forms `sdd_ls_kd` and
`sdd_ls_dkd`, in which every region is a sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, get_args

from torch import Tensor

from distillers.base import Convention, LogitDistiller, Outputs, Parameters, PerSample, registry
from distillers.modifier import Modifier
from distillers.sdd import register_with_sdd


class LossModifier(Parameters):
    """Hyperparameters of a modifier, which turns a per-sample loss into another."""

    @abstractmethod
    def modified(self, loss: PerSample) -> PerSample:
        """Make the loss that replaces `loss`: (student_NK, teacher_NK, target_N) -> (N,)."""


M = TypeVar("M", bound=LossModifier)


def loss_modifier(
    name: str, title: str, *, of: Mapping[type[Parameters], Mapping[str, Any]], numerics_version: int = 1
) -> Callable[[type[M]], type[M]]:
    """Decorator: register a modifier's forms `<name>_x` and `sdd_<name>_x` of the given methods x.

    `title` is the printed name of a form, where {} stands for the method's title. `of` names each method by the class
    of its hyperparameters, with the values that differ from their defaults under the modifier. Raise
    `numerics_version` whenever a change makes the losses differ. Raises ValueError when a name is taken, or when a
    class in `of` belongs to no registered method.
    """

    def add(modifier: type[M]) -> type[M]:
        summary = f"{{}} with its loss per sample changed by `{name}`."
        made = Modifier(name, title, summary, modifier, _mixin(name, modifier), numerics_version)
        for parameters, values in of.items():
            method, group = _method_of(parameters)
            form = made.of(method, {convention: {group: values} for convention in get_args(Convention)})
            decoupled = registry.get(f"sdd_{method.name}").conventions["code"][group]
            register_with_sdd(form, {**decoupled, **values})
        return modifier

    return add


def _method_of(parameters: type[Parameters]) -> tuple[type[LogitDistiller], str]:
    """Find the method that has these hyperparameters and no others, and the name of their group."""
    for name in registry:
        method = registry.get(name)
        if list(method.groups.values()) == [parameters] and issubclass(method, LogitDistiller):
            return method, next(iter(method.groups))
    raise ValueError(f"{parameters.__name__} is not the hyperparameters of a registered method on logits")


def _mixin(name: str, modifier: type[LossModifier]) -> type[LogitDistiller]:
    class Modified(LogitDistiller):
        def instance(self, loss: PerSample, student: Outputs, teacher: Outputs, target_B: Tensor) -> Tensor:
            changed = cast(LossModifier, self.values[name]).modified(loss)
            return super().instance(changed, student, teacher, target_B)

    Modified.__name__, Modified.__doc__ = modifier.__name__, modifier.__doc__
    return Modified
