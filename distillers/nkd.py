"""NKD: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation", ICCV 2023 (arXiv 2303.13005)."""

from __future__ import annotations

from torch import Tensor

from distillers import kernels
from distillers.base import NonNegative, Positive
from distillers.sample_loss import SampleLoss, sample_loss


def nkd(
    student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, temperature: float, gamma: float, keep_target: bool
) -> Tensor:
    """-p_t(y) log p_s(y) - gamma T^2 sum_k q_t(k) log q_s(k), per sample, (N,). Yang et al., ICCV 2023.

    p is the softmax at T = 1; q, at T, is the softmax over the classes other than y, or over all with `keep_target`.
    """
    values = {"temperature": temperature, "gamma": gamma, "keep_target": keep_target}
    return kernels.row_loss(kernels.nkd, student_NK, teacher_NK, target_N, **values)


# SDD's released code reads SD-NKD's settings from DKD's (gamma is DKD's beta: 8, or 6 for some pairs) and copied NKD
# before it removed the target; NKD's own code fixed that on 2023-10-10 and has no warm-up
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
    #: keep the target class in the second term, as in every published SD-NKD number
    keep_target: bool = False

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return nkd(student_NK, teacher_NK, target_N, self.temperature, self.gamma, self.keep_target)
