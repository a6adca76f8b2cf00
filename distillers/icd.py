"""iCD: Xue et al., "iCD: A Implicit Clustering Distillation Mathod for Structural Information Mining", 2025.

arXiv 2509.12553; a term beside scale-decoupled methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillers.base import NonNegative, Outputs, Parameters, Positive, Views, register, registry
from distillers.dkd import DKD
from distillers.kd import KD
from distillers.logspace import log_softmax
from distillers.nkd import NKD
from distillers.sample_loss import SampleDistiller
from distillers.sdd import SDD, ScaleDecoupled


class ICD(Parameters):
    """iCD's hyperparameters. The defaults are those of its released code."""

    #: weight of the term; 8 and 2 are published
    gamma: NonNegative = 8.0
    #: of the softmax over the regions that a region is compared with
    temperature: Positive = 2.0


def similarity_loss(student: Outputs, teacher: Outputs, scales: tuple[int, ...], temperature: float) -> Tensor:
    """Weighted sum over the scales m of KL(G_t || G_s), a scalar.

    G is the softmax at T, row by row, of the cosines of the logits of an image's m^2 regions; rows are summed, images
    averaged, and there is no T^2. A scale weighs 1 + log2 m, over the sum of all weights.
    """
    weights = [1 + math.log2(side) for side in scales]
    students, teachers = (
        torch.split(normalize(seen.regions, dim=2), [side * side for side in scales], dim=1)
        for seen in (student, teacher)
    )
    total = student.regions.new_zeros(())
    for weight, s_BRK, t_BRK in zip(weights, students, teachers, strict=True):
        log_s, log_t = (log_softmax(x @ x.transpose(1, 2), temperature) for x in (s_BRK, t_BRK))
        total = total + weight / sum(weights) * (log_t.exp() * (log_t - log_s)).sum((1, 2)).mean()
    return total


class WithSimilarities(ScaleDecoupled, SampleDistiller):
    """A scale-decoupled method with iCD's term beside it, which has no warm-up."""

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, target_B, epoch)
        if not self.scales:
            return terms
        p = cast(ICD, self.values["icd"])
        similarities = similarity_loss(student["weak"], teacher["weak"], self.scales, p.temperature)
        return {**terms, "similarities": p.gamma * similarities}


class ICDKD(WithSimilarities):
    """SD-KD + 8 KL between the similarities of the regions of an image, in the student and in the teacher."""

    name = "icd_kd"
    title = "iCD-KD"
    base = "sdd_kd"
    group = "kd"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"kd": KD, "sdd": SDD, "icd": ICD}
    numerics_version = registry.get("sdd_kd").numerics_version
    conventions = registry.get("sdd_kd").conventions


class ICDDKD(WithSimilarities):
    """SD-DKD + 8 KL between the similarities of the regions of an image, in the student and in the teacher."""

    name = "icd_dkd"
    title = "iCD-DKD"
    base = "sdd_dkd"
    group = "dkd"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"dkd": DKD, "sdd": SDD, "icd": ICD}
    numerics_version = registry.get("sdd_dkd").numerics_version
    conventions = registry.get("sdd_dkd").conventions


class ICDNKD(WithSimilarities):
    """SD-NKD + 8 KL between the similarities of the regions of an image, in the student and in the teacher."""

    name = "icd_nkd"
    title = "iCD-NKD"
    base = "sdd_nkd"
    group = "nkd"
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"nkd": NKD, "sdd": SDD, "icd": ICD}
    numerics_version = registry.get("sdd_nkd").numerics_version
    conventions = registry.get("sdd_nkd").conventions


register(ICDKD)
register(ICDDKD)
register(ICDNKD)
