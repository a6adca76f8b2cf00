"""NormKD: Chi et al., "NormKD: Normalized Logits for Knowledge Distillation", 2023 (arXiv 2308.00520)."""

from __future__ import annotations

from torch import Tensor

from distillers.base import NonNegative, Positive, at_least_fp32
from distillers.logspace import log_softmax
from distillers.sample_loss import SampleLoss, sample_loss


def normkd(student_NK: Tensor, teacher_NK: Tensor, norm: float) -> Tensor:
    """T_t^2 KL(p_t || p_s) with a temperature per network and sample, T = `norm` std(z), per sample, (N,).

    The standard deviation is over the classes, divides by K - 1, and the gradient flows through the student's. Chi et
    al. 2023.
    """
    student_NK, teacher_NK = at_least_fp32(student_NK), at_least_fp32(teacher_NK)
    # equal logits have no deviation and a uniform softmax at any temperature: one that is finite
    temperature_s, temperature_t = (norm * (z.var(1, keepdim=True) + 1e-24).sqrt() for z in (student_NK, teacher_NK))
    log_s, log_t = log_softmax(student_NK / temperature_s), log_softmax(teacher_NK / temperature_t)
    return temperature_t[:, 0].square() * (log_t.exp() * (log_t - log_s)).sum(1)


@sample_loss("normkd", title="NormKD")
class NormKD(SampleLoss):
    """0.1 CE + 0.9 T_t^2 KL, where each sample's temperature is twice the standard deviation of its logits."""

    #: the temperature of a sample in units of its logits' standard deviation
    temperature_norm: Positive = 2.0
    ce_weight: NonNegative = 0.1
    weight: NonNegative = 0.9

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return normkd(student_NK, teacher_NK, self.temperature_norm)
