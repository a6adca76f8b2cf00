"""CRLD: Zhang, Liu, Cai, Ma, "Cross-View Consistency Regularisation for Knowledge Distillation", MM 2024.

arXiv 2412.16493.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Positive, Views, warmup
from distillers.kd import kd
from distillers.logspace import log_softmax
from distillers.sdd import register_with_sdd

Confidence = Annotated[float, Field(ge=0, le=1)]


class CRLD(Parameters):
    """CRLD's hyperparameters. The defaults are those of its released code."""

    temperature: Positive = 4.0
    #: weight of the cross-entropy on each of the two views
    ce_weight: NonNegative = 1.0
    #: weight of the terms within a view, and of those across the views
    within: NonNegative = 2.0
    across: NonNegative = 0.5
    #: a sample counts within the views when the teacher's confidence on its weak view is at least this
    confidence_weak: Confidence = 0.9
    #: a sample counts across the views when the teacher's confidence on its strong view is at least this
    confidence_strong: Confidence = 0.2
    #: the distillation terms are scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0


class CRLDDistiller(LogitDistiller):
    """CE on two views, weak and strong, and KD within each and across both for the samples the teacher is sure of.

    2 mean 1(c_w >= 0.9) [KD(w, w) + KD(s, s)] + 0.5 mean 1(c_s >= 0.2) [KD(t_w, s_s) + KD(t_s, s_w)], c the teacher's
    confidence on a view. Scale decoupling acts within the views: the regions of two views show different places.
    Zhang, Liu, Cai, Ma, MM 2024.
    """

    name = "crld"
    title = "CRLD"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"crld": CRLD}
    views = ("weak", "strong")

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.crld = cast(CRLD, values["crld"])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        p = self.crld
        s, t = ({view: seen[view].logits for view in self.views} for seen in (student, teacher))

        def loss(student_NK: Tensor, teacher_NK: Tensor, _: Tensor) -> Tensor:
            return kd(student_NK, teacher_NK, p.temperature)

        within_B = sum(self.instance(loss, student[view], teacher[view], target_B) for view in self.views)
        across_B = loss(s["strong"], t["weak"], target_B) + loss(s["weak"], t["strong"], target_B)
        is_sure = {
            view: log_softmax(t[view]).exp().amax(1) >= least
            for view, least in (("weak", p.confidence_weak), ("strong", p.confidence_strong))
        }
        weight = warmup(epoch, p.warmup_epochs)
        return {
            "ce": p.ce_weight * (cross_entropy(s["weak"], target_B) + cross_entropy(s["strong"], target_B)),
            "kd": weight * p.within * (is_sure["weak"] * within_B).mean(),
            "across": weight * p.across * (is_sure["strong"] * across_B).mean(),
        }


register_with_sdd(CRLDDistiller)
