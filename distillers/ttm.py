"""TTM and WTTM: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024 (2402.11148)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from distillers.base import NonNegative
from distillers.logspace import log_softmax
from distillers.sample_loss import SampleLoss, sample_loss

Exponent = Annotated[float, Field(gt=0, le=1)]


def ttm(student_NK: Tensor, teacher_NK: Tensor, exponent: float) -> Tensor:
    """KL(q || p_s) with q = softmax(g z_t) and p_s = softmax(z_s), per sample, (N,). Zheng, Yang, ICLR 2024.

    The teacher's probabilities are raised to the power g and normalized; the student has no temperature.
    """
    log_q, log_s = log_softmax(exponent * teacher_NK), log_softmax(student_NK)
    return (log_q.exp() * (log_q - log_s)).sum(1)


def power_sum(teacher_NK: Tensor, exponent: float) -> Tensor:
    """U = sum_k p_t(k)^g at T = 1, per sample, (N,): large where the teacher is unsure. Zheng, Yang, ICLR 2024."""
    return (exponent * log_softmax(teacher_NK)).exp().sum(1)


# exponent and weight are set per pair; the defaults are those of resnet32x4 -> resnet8x4
@sample_loss("ttm", title="TTM")
class TTM(SampleLoss):
    """CE + weight KL(softmax(g z_t) || softmax(z_s)), without T^2."""

    #: power that the teacher's probabilities are raised to, g = 1 / T
    exponent: Exponent = 0.1
    weight: NonNegative = 100.0

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return ttm(student_NK, teacher_NK, self.exponent)


@sample_loss("wttm", title="WTTM", base="ttm")
class WTTM(SampleLoss):
    """CE + weight U KL(softmax(g z_t) || softmax(z_s)): TTM with a weight per sample, U = sum_k p_t(k)^g."""

    #: power that the teacher's probabilities are raised to, g = 1 / T
    exponent: Exponent = 0.1
    weight: NonNegative = 3.0

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return power_sum(teacher_NK, self.exponent) * ttm(student_NK, teacher_NK, self.exponent)
