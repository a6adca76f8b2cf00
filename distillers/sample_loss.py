"""The short way to a new distiller: hyperparameters, a per-sample loss, one decorator.

    @sample_loss("mine", title="Mine")
    class Mine(SampleLoss):
        temperature: Positive = 4.0

        def per_sample(self, student_NK, teacher_NK, target_N):
            return ...  # (N,)

registers `mine` and its scale-decoupled form `sdd_mine`, with cross-entropy, weights and warm-up in place.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Views, warmup
from distillers.sdd import register_with_sdd


class SampleLoss(Parameters):
    """Hyperparameters of a per-sample loss."""

    #: weight of the cross-entropy with the labels
    ce_weight: NonNegative = 1.0
    #: weight of the distillation term
    weight: NonNegative = 1.0
    #: the distillation term is scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0

    @abstractmethod
    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        """Compute the distillation loss of every row, (N,), before weight and warm-up."""


class SampleDistiller(LogitDistiller):
    """Cross-entropy plus a per-sample loss: ce_weight * CE + weight * warm-up * mean of the loss over the batch."""

    #: the namespace of the loss's hyperparameters
    group: ClassVar[str]

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.loss = cast(SampleLoss, values[self.group])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        loss_B = self.instance(self.loss.per_sample, student["weak"], teacher["weak"], target_B)
        return {
            "ce": self.loss.ce_weight * cross_entropy(student["weak"].logits, target_B),
            "kd": self.loss.weight * warmup(epoch, self.loss.warmup_epochs) * loss_B.mean(),
        }


L = TypeVar("L", bound=SampleLoss)


def sample_loss(
    name: str,
    title: str,
    *,
    base: str | None = None,
    released: Mapping[str, Any] | None = None,
    numerics_version: int = 1,
) -> Callable[[type[L]], type[L]]:
    """Decorator: register a sample loss as the distillers `name` and `sdd_<name>`.

    `base` is the method that its gain is measured against; None is the student alone. `released` are hyperparameters
    that SDD's released code gives the scale-decoupled form. Raise `numerics_version` whenever a change makes the losses
    differ. Raises ValueError when a name is taken.
    """

    def add(loss: type[L]) -> type[L]:
        body = {
            "__doc__": loss.__doc__,
            "__module__": loss.__module__,
            "name": name,
            "title": title,
            "base": base,
            "group": name,
            "groups": {name: loss},
            "numerics_version": numerics_version,
        }
        register_with_sdd(type(f"{loss.__name__}Distiller", (SampleDistiller,), body), released)
        return loss

    return add
