"""SLD: Limantoro et al., "Swapped Logit Distillation via Bi-Level Teacher Alignment", 2025 (arXiv 2504.20108)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Positive, Views, warmup
from distillers.kd import kd
from distillers.logspace import at_target, log_softmax
from distillers.sdd import register_with_sdd


class SLD(Parameters):
    """SLD's hyperparameters. The defaults are those of its released code."""

    #: every distillation term is summed, not averaged, over these
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    #: weight of the cross-entropy on each of the two views
    ce_weight: NonNegative = 0.1
    #: weight of each distillation term
    weight: NonNegative = 0.9
    #: after so many epochs the student learns from its own swapped logits too
    own_after: Epochs = 150
    #: the distillation terms are scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0


def swapped(logits_NK: Tensor, target_N: Tensor) -> Tensor:
    """Exchange every row's largest logit with that of its target. Limantoro et al. 2025."""
    top_N = logits_NK.argmax(1)
    largest_N, own_N = at_target(logits_NK, top_N), at_target(logits_NK, target_N)
    return logits_NK.scatter(1, top_N[:, None], own_N[:, None]).scatter(1, target_N[:, None], largest_N[:, None])


def kd_to_own(student_NK: Tensor, shown_NK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(q || p), per sample, (N,), whose gradient flows through both, q = softmax(shown / T)."""
    log_p, log_q = log_softmax(student_NK, temperature), log_softmax(shown_NK, temperature)
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(1)


class SLDDistiller(LogitDistiller):
    """Two views, weak and strong; 0.1 CE on each, and 0.9 KD to swapped logits, summed over T from 1 to 6.

    The teacher's largest logit is exchanged with that of the label where it errs. After epoch 150 the student also
    learns from its own swapped logits, through which the gradient flows, as in the released code. Scale-decoupled,
    every region's logits are swapped by themselves. Limantoro et al. 2025.
    """

    name = "sld"
    title = "SLD"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"sld": SLD}
    views = ("weak", "strong")
    needs_epoch: ClassVar[bool] = True

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.sld = cast(SLD, values["sld"])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        p = self.sld

        def from_teacher(student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
            shown_NK = swapped(teacher_NK, target_N)
            return torch.stack([kd(student_NK, shown_NK, at) for at in p.temperatures]).sum(0)

        def from_itself(student_NK: Tensor, _: Tensor, target_N: Tensor) -> Tensor:
            shown_NK = swapped(student_NK, target_N)
            return torch.stack([kd_to_own(student_NK, shown_NK, at) for at in p.temperatures]).sum(0)

        weight = p.weight * warmup(epoch, p.warmup_epochs)
        terms = dict.fromkeys(("ce", "kd", "own"), target_B.new_zeros((), dtype=student["weak"].logits.dtype))
        for view in self.views:
            s, t = student[view], teacher[view]
            terms["ce"] = terms["ce"] + p.ce_weight * cross_entropy(s.logits, target_B)
            terms["kd"] = terms["kd"] + weight * self.instance(from_teacher, s, t, target_B).mean()
            # on the device the epoch is a tensor, which is not read
            if isinstance(epoch, Tensor) or epoch > p.own_after:
                own = (epoch > p.own_after) * self.instance(from_itself, s, t, target_B).mean()
                terms["own"] = terms["own"] + weight * own
        return terms


register_with_sdd(SLDDistiller)
