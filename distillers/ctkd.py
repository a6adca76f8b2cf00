"""CTKD: Li et al., "Curriculum Temperature for Knowledge Distillation", AAAI 2023 (arXiv 2211.16231)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, Extras, Facts, LogitDistiller, NonNegative, Parameters, Positive, Views
from distillers.logspace import log_softmax
from distillers.network import Network
from distillers.sdd import register_with_sdd


class CTKD(Parameters):
    """CTKD's hyperparameters. The defaults are those of its released code, with one temperature for all images."""

    #: the temperature is start + range * sigmoid(theta), theta trained from 1
    start: Positive = 1.0
    range: Positive = 20.0
    #: over so many epochs the gradient of theta turns from 0 to its opposite, along a cosine
    curriculum_epochs: Epochs = 10
    ce_weight: NonNegative = 0.1
    weight: NonNegative = 0.9


class Temperature(nn.Module):
    """The one number that the temperature follows from."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(1))

    def forward(self, start: float, span: float, gradient_scale: float | Tensor) -> Tensor:
        """Compute start + span * sigmoid(theta), (1,); the gradient that reaches theta is scaled."""
        fixed = self.theta.detach()
        return start + span * (fixed + gradient_scale * (self.theta - fixed)).sigmoid()


def reversal(epoch: int | Tensor, curriculum_epochs: int) -> float | Tensor:
    """-(1 - cos(pi min(e, E) / E)) / 2: from 0 to -1 over E epochs, counted from 1; -1 without a curriculum."""
    if curriculum_epochs == 0:
        return -1.0
    if isinstance(epoch, Tensor):
        return -0.5 * (1 - torch.cos(math.pi * torch.clamp(epoch / curriculum_epochs, max=1.0)))
    return -0.5 * (1 - math.cos(math.pi * min(epoch / curriculum_epochs, 1.0)))


class CTKDDistiller(LogitDistiller):
    """0.1 CE + 0.9 T^2 KL at a temperature that is trained to make the loss larger, while the student makes it smaller.

    T = 1 + 20 sigmoid(theta); theta's gradient is reversed, ever more over the first 10 epochs. Scale-decoupled, all
    regions have the one temperature. Li et al., AAAI 2023.
    """

    name = "ctkd"
    title = "CTKD"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"ctkd": CTKD}

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.ctkd = cast(CTKD, values["ctkd"])

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        return Temperature()

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        raise ValueError("ctkd trains a temperature beside the student: its losses need the side module")

    def terms_with(
        self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor, extras: Extras
    ) -> dict[str, Tensor]:
        p = self.ctkd
        if extras.modules is None:
            return self.terms(student, teacher, target_B, epoch)
        temperature = extras.modules(p.start, p.range, reversal(epoch, p.curriculum_epochs))

        def kd(student_NK: Tensor, teacher_NK: Tensor, _: Tensor) -> Tensor:
            log_s, log_t = (log_softmax(z / temperature) for z in (student_NK, teacher_NK))
            loss_N: Tensor = temperature.square() * (log_t.exp() * (log_t - log_s)).sum(1)
            return loss_N

        kd_B = self.instance(kd, student["weak"], teacher["weak"], target_B)
        return {
            "ce": p.ce_weight * cross_entropy(student["weak"].logits, target_B),
            "kd": p.weight * kd_B.mean(),
        }


register_with_sdd(CTKDDistiller)
