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
    # what is left is small: one operator for both networks, since here each costs more than what it computes
    logit_2N = torch.stack([at_target(student_NK, target_N), at_target(teacher_NK, target_N)])
    largest_2N = torch.stack([student.largest, teacher.largest])
    margin_2N = margin(logit_2N, largest_2N, torch.stack([q_s.total, q_t.total]), temperature)
    # p_y and 1 - p_y each from a sigmoid: both keep their digits however close to 0 or 1 they are
    log_s, log_t = logsigmoid(torch.stack([margin_2N, -margin_2N], dim=1))
    p_t = log_t.exp()
    tckd_N = (log_t - log_s).mul_(p_t).sum(0)
    if gradient_NK is not None:  # q_s lies in it
        p_s = log_s.exp()
        at_target_N = (p_s[0] * p_t[1] - p_s[1] * p_t[0]).mul_(alpha * temperature)
        difference(q_s, beta * temperature - at_target_N, q_t, beta * temperature)
        gradient_NK.scatter_(1, target_N[:, None], at_target_N[:, None])
    return nckd_N.mul_(beta).add_(tckd_N, alpha=alpha).mul_(temperature**2)


@sample_loss("dkd", title="DKD", numerics_version=2)
class DKD(SampleLoss):
    """CE + T^2 (TCKD + 8 NCKD) at T = 4, warm-up over 20 epochs. `beta` depends on the pair: 8, 6 or 2."""

    temperature: Positive = 4.0
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    warmup_epochs: Epochs = 20

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return dkd(student_NK, teacher_NK, target_N, self.alpha, self.beta, self.temperature)
