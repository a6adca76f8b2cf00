"""NKD: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation", ICCV 2023 (arXiv 2303.13005)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from distillers.analytic import row_loss
from distillers.base import NonNegative, Positive
from distillers.logspace import LN2, at_target, cross_entropy, difference, exponents, to_softmax
from distillers.sample_loss import SampleLoss, sample_loss


def nkd(
    student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, temperature: float, gamma: float, keep_target: bool
) -> Tensor:
    """-p_t(y) log p_s(y) - gamma T^2 sum_k q_t(k) log q_s(k), per sample, (N,). Yang et al., ICCV 2023.

    p is the softmax at T = 1; q, at T, is the softmax over the classes other than y, or over all with `keep_target`.
    """
    loss = partial(_value_and_gradient, temperature=temperature, gamma=gamma, keep_target=keep_target)
    return row_loss(loss, student_NK, teacher_NK, target_N)


def _value_and_gradient(
    student_NK: Tensor,
    teacher_NK: Tensor,
    target_N: Tensor,
    *,
    temperature: float,
    gamma: float,
    keep_target: bool,
    gradient_NK: Tensor | None,
) -> Tensor:
    """The loss, and its gradient p_t(y) (p_s - 1_y) + gamma T (q_s - q_t), where 1_y is 1 at the target, else 0."""
    removed_N = None if keep_target else target_N
    student = exponents(student_NK, temperature, removed_N, out_NK=gradient_NK)
    cross_N, q_t, q_s = cross_entropy(exponents(teacher_NK, temperature, removed_N), student)
    if gradient_NK is not None:  # q_s lies in it
        difference(q_s, gamma * temperature, q_t, gamma * temperature)

    p_t = to_softmax(exponents(teacher_NK, 1))
    p_t_N = at_target(p_t.powers, target_N) / p_t.total
    whole = exponents(student_NK, 1)
    exponent_N = at_target(whole.values, target_N)
    p_s = to_softmax(whole)
    if gradient_NK is not None:
        gradient_NK.addcmul_(p_s.powers, (p_t_N / p_s.total)[:, None])
        gradient_NK.scatter_add_(1, target_N[:, None], -p_t_N[:, None])
    return gamma * temperature**2 * cross_N - p_t_N * (LN2 * exponent_N - p_s.total.log())


# SDD's released code reads SD-NKD's settings from DKD's (gamma is DKD's beta: 8, or 6 for some pairs) and copied NKD
# at a time when the target was not removed; NKD's own code mended that on 2023-10-10 and has no warm-up
@sample_loss(
    "nkd",
    title="NKD",
    released={"temperature": 4.0, "gamma": 8.0, "keep_target": True, "warmup_epochs": 20},
    numerics_version=2,
)
class NKD(SampleLoss):
    """CE + NKD at T = 1, gamma = 1.5, without warm-up: the method's own settings."""

    temperature: Positive = 1.0
    gamma: NonNegative = 1.5
    #: leave the target in the second term, as every published SD-NKD number was made
    keep_target: bool = False

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return nkd(student_NK, teacher_NK, target_N, self.temperature, self.gamma, self.keep_target)
