"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from distillers.analytic import row_loss
from distillers.base import NonNegative, Positive
from distillers.logspace import difference, divergence, exponents
from distillers.sample_loss import SampleLoss, sample_loss


def kd(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_t || p_s) with p = softmax(z / T), per sample, (N,). Hinton, Vinyals, Dean 2015."""
    return row_loss(partial(_value_and_gradient, temperature=temperature), student_NK, teacher_NK)


def _value_and_gradient(
    student_NK: Tensor, teacher_NK: Tensor, *, temperature: float, gradient_NK: Tensor | None
) -> Tensor:
    """The loss T^2 KL(p_t || p_s), and its gradient T (p_s - p_t)."""
    student, teacher = exponents(student_NK, temperature, out_NK=gradient_NK), exponents(teacher_NK, temperature)
    divergence_N, p_t, p_s = divergence(teacher, student)
    if gradient_NK is not None:  # p_s lies in it
        difference(p_s, temperature, p_t, temperature)
    return temperature**2 * divergence_N


@sample_loss("kd", title="KD", numerics_version=2)
class KD(SampleLoss):
    """0.1 CE + 0.9 T^2 KL at T = 4: the CIFAR-100 recipe of the literature."""

    temperature: Positive = 4.0
    ce_weight: NonNegative = 0.1
    weight: NonNegative = 0.9

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return kd(student_NK, teacher_NK, self.temperature)
