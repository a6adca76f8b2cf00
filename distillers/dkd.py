"""DKD: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022 (arXiv 2203.08679)."""

from __future__ import annotations

from torch import Tensor

from distillers import kernels
from distillers.base import Epochs, NonNegative, Positive
from distillers.sample_loss import SampleLoss, sample_loss


def dkd(
    student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), per sample, (N,). Zhao et al., CVPR 2022.

    TCKD is the KL between the binary splits (p_y, 1 - p_y), NCKD the KL between the softmaxes over the other classes.
    """
    values = {"alpha": alpha, "beta": beta, "temperature": temperature}
    return kernels.row_loss(kernels.dkd, student_NK, teacher_NK, target_N, **values)


@sample_loss("dkd", title="DKD", numerics_version=2)
class DKD(SampleLoss):
    """CE + T^2 (TCKD + 8 NCKD) at T = 4, warm-up over 20 epochs. `beta` depends on the pair: 8, 6 or 2."""

    temperature: Positive = 4.0
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    warmup_epochs: Epochs = 20

    def per_sample(self, student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
        return dkd(student_NK, teacher_NK, target_N, self.alpha, self.beta, self.temperature)
