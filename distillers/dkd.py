"""DKD: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022 (arXiv 2203.08679)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from distillers.analytic import row_loss
from distillers.base import Epochs, NonNegative, Positive
from distillers.logspace import at_target, difference, divergence, exponents, margin
from distillers.sample_loss import SampleLoss, sample_loss


def dkd(
    student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), per sample, (N,). Zhao et al., CVPR 2022.

    TCKD is the KL between the binary splits (p_y, 1 - p_y), NCKD the KL between the softmaxes over the other classes.
    """
    loss = partial(_value_and_gradient, alpha=alpha, beta=beta, temperature=temperature)
    return row_loss(loss, student_NK, teacher_NK, target_N)


def _value_and_gradient(
    student_NK: Tensor,
    teacher_NK: Tensor,
    target_N: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    gradient_NK: Tensor | None,
) -> Tensor:
    """The loss, and its gradient: T alpha d at the target, T (beta (q_s - q_t) - alpha d q_s) at the others.

    q is the softmax over the others, d = p_s(y) - p_t(y), and p_y = sigmoid(m) of the margin
    m = z_y / T - log sum_{k != y} exp(z_k / T), whose gradient is 1 / T at the target and -q / T at the others. TCKD's
    derivative by m_s is d; NCKD does not depend on z_y.
    """
    student = exponents(student_NK, temperature, target_N, out_NK=gradient_NK)
    teacher = exponents(teacher_NK, temperature, target_N)
    nckd_N, q_t, q_s = divergence(teacher, student)
    margin_s = margin(at_target(student_NK, target_N), student, q_s.total, temperature)
    margin_t = margin(at_target(teacher_NK, target_N), teacher, q_t.total, temperature)
    # p_y and 1 - p_y each from a sigmoid: both keep their digits however close to 0 or 1 they are
    split_s, split_t = torch.stack([margin_s, -margin_s]), torch.stack([margin_t, -margin_t])
    p_s, p_t = split_s.sigmoid(), split_t.sigmoid()
    tckd_N = (p_t * (logsigmoid(split_t) - logsigmoid(split_s))).sum(0)
    if gradient_NK is not None:  # q_s lies in it
        at_target_N = alpha * temperature * (p_s[0] * p_t[1] - p_s[1] * p_t[0])
        difference(q_s, beta * temperature - at_target_N, q_t, beta * temperature)
        gradient_NK.scatter_(1, target_N[:, None], at_target_N[:, None])
    return temperature**2 * (alpha * tckd_N + beta * nckd_N)


@sample_loss("dkd", title="DKD", numerics_version=2)
class DKD(SampleLoss):
    """CE + T^2 (TCKD + 8 NCKD) at T = 4, warm-up over 20 epochs. `beta` depends on the pair: 8, 6 or 2."""

    temperature: Positive = 4.0
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    warmup_epochs: Epochs = 20

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return dkd(student_NK, teacher_NK, target_N, self.alpha, self.beta, self.temperature)
