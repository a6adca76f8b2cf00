"""RLD: Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025 (arXiv 2408.07703)."""

from __future__ import annotations

import torch
from torch import Tensor

from distillers.base import Epochs, NonNegative, Positive, at_least_fp32
from distillers.logspace import at_target, log_softmax
from distillers.sample_loss import SampleLoss, sample_loss


def rld(
    student_NK: Tensor,
    teacher_NK: Tensor,
    target_N: Tensor,
    alpha: float,
    beta: float,
    temperature: float,
    alpha_temperature: float,
) -> Tensor:
    """a T_a^2 KL(sample confidences) + b T^2 KL(masked softmaxes), per sample, (N,). Sun et al., ICCV 2025.

    Sample confidence: the pair (largest p_t, the rest) to the pair (p_s of the target, the rest), at T_a. Masked: the
    softmaxes at T over the classes that the teacher ranks below the target, z_t < z_t of the target; 0 where there is
    none.
    """
    student_NK, teacher_NK = at_least_fp32(student_NK), at_least_fp32(teacher_NK)
    largest_N = teacher_NK.argmax(1)
    confidence = split_divergence(teacher_NK, largest_N, student_NK, target_N, alpha_temperature)
    below_NK = teacher_NK < at_target(teacher_NK, target_N)[:, None]
    masked = masked_divergence(teacher_NK, student_NK, below_NK, temperature)
    return alpha * alpha_temperature**2 * confidence + beta * temperature**2 * masked


def split_divergence(p_NK: Tensor, class_p_N: Tensor, q_NK: Tensor, class_q_N: Tensor, temperature: float) -> Tensor:
    """KL between two pairs (a class, the rest) of softmax probabilities, each with its own class, (N,)."""
    (log_p, log_not_p), (log_q, log_not_q) = (
        _split(logits_NK, class_N, temperature) for logits_NK, class_N in ((p_NK, class_p_N), (q_NK, class_q_N))
    )
    return log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)


def _split(logits_NK: Tensor, class_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) of a class at a temperature, (N,) each; the second keeps its digits where p is near 1."""
    log_NK = log_softmax(logits_NK, temperature)
    is_class = torch.zeros_like(log_NK, dtype=torch.bool).scatter(1, class_N[:, None], True)
    return at_target(log_NK, class_N), log_NK.masked_fill(is_class, -torch.inf).logsumexp(1)


def masked_divergence(p_NK: Tensor, q_NK: Tensor, mask_NK: Tensor, temperature: float) -> Tensor:
    """KL between softmaxes over a sample's own set of classes, (N,); 0, with no gradient, where the set is empty."""
    some_N = mask_NK.any(1)
    outside = ~(mask_NK | ~some_N[:, None])  # an empty set would be 0 / 0: all classes stand in, and count nothing
    log_p, log_q = (log_softmax(z.masked_fill(outside, -torch.inf), temperature) for z in (p_NK, q_NK))
    ratio = (log_p - log_q).masked_fill(outside, 0.0)  # -inf - (-inf)
    return (log_p.exp() * ratio).sum(1) * some_N


@sample_loss("rld", title="RLD")
class RLD(SampleLoss):
    """CE + KL of sample confidences at T = 1 + 8 times that of masked softmaxes at T = 4, warm-up over 20 epochs."""

    temperature: Positive = 4.0
    #: temperature of the sample confidences
    alpha_temperature: Positive = 1.0
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    warmup_epochs: Epochs = 20

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return rld(student_NK, teacher_NK, target_N, self.alpha, self.beta, self.temperature, self.alpha_temperature)
