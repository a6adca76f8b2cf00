"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor

from distillers import kernels
from distillers.base import NonNegative, Positive
from distillers.sample_loss import SampleLoss, sample_loss


def kd(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_t || p_s) with p = softmax(z / T), per sample, (N,). Hinton, Vinyals, Dean 2015."""
    return kernels.row_loss(kernels.kd, student_NK, teacher_NK, temperature=temperature)


@sample_loss("kd", title="KD", numerics_version=2)
class KD(SampleLoss):
    """0.1 CE + 0.9 T^2 KL at T = 4: the CIFAR-100 recipe of the literature."""

    temperature: Positive = 4.0
    ce_weight: NonNegative = 0.1
    weight: NonNegative = 0.9

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return kd(student_NK, teacher_NK, self.temperature)
