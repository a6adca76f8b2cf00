"""DIST: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022 (2205.10536)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Positive, Views, warmup
from distillers.logspace import log_softmax
from distillers.sdd import register_with_sdd

_EPSILON = 1e-8


class DIST(Parameters):
    """DIST's hyperparameters. The defaults are those of its released code on CIFAR-100."""

    temperature: Positive = 4.0
    ce_weight: NonNegative = 1.0
    #: weight of the relation over the classes of a sample
    beta: NonNegative = 2.0
    #: weight of the relation over the samples of a class
    gamma: NonNegative = 2.0
    #: the terms are multiplied by T^2, which the paper's listing leaves out
    squared_temperature: bool = True
    #: both terms are scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0


def correlation_distance(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """1 - Pearson's correlation of two rows, (N,); 1 where a row is constant."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a_NK, b_NK))
    norms: Tensor = vector_norm(a, dim=1) * vector_norm(b, dim=1)
    return 1 - (a * b).sum(1) / (norms + _EPSILON)


class DISTDistiller(LogitDistiller):
    """CE + 2 T^2 times: 1 - correlation of each sample's probabilities, and of each class's over the batch, at T = 4.

    A class's term depends on which samples stand in the batch. Scale decoupling acts on the samples' term; the
    classes' stays on the whole image. Huang et al., NeurIPS 2022.
    """

    name = "dist"
    title = "DIST"
    couples_batch = True
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"dist": DIST}
    conventions: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "paper": {"dist": {"squared_temperature": False}}
    }

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.dist = cast(DIST, values["dist"])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        p = self.dist
        s, t = student["weak"], teacher["weak"]

        def of_classes(student_NK: Tensor, teacher_NK: Tensor, _: Tensor) -> Tensor:
            return correlation_distance(*(log_softmax(z, p.temperature).exp() for z in (student_NK, teacher_NK)))

        s_BK, t_BK = (log_softmax(seen.logits, p.temperature).exp() for seen in (s, t))
        scale = warmup(epoch, p.warmup_epochs) * (p.temperature**2 if p.squared_temperature else 1.0)
        return {
            "ce": p.ce_weight * cross_entropy(s.logits, target_B),
            "kd": p.beta * scale * self.instance(of_classes, s, t, target_B).mean(),
            "class": p.gamma * scale * correlation_distance(s_BK.T, t_BK.T).mean(),
        }


register_with_sdd(DISTDistiller)
