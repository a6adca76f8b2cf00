"""LS: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024 (arXiv 2403.01427)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from distillers.base import PerSample, at_least_fp32
from distillers.dkd import DKD
from distillers.kd import KD
from distillers.loss_modifier import LossModifier, loss_modifier
from distillers.mlkd import MLKD
from distillers.rld import RLD


def standardized(logits_NK: Tensor, correction: int = 1) -> Tensor:
    """(z - mean) / (std + 1e-7) of every row over the classes, (N, K). Sun et al., CVPR 2024.

    The variance is the sum of squares over K - `correction`: 1 as in the released code, 0 as in the paper.
    """
    centred = logits_NK - logits_NK.mean(1, keepdim=True)
    # the gradient of a square root is infinite at 0, where all logits of a row are equal
    squares = centred.square().sum(1, keepdim=True) / (centred.shape[1] - correction)
    flat = squares == 0
    std = squares.where(~flat, squares.new_ones(())).sqrt().masked_fill(flat, 0.0)
    return centred / (std + 1e-7)


# the paper tunes temperature and weight per pair on the test set; these are those of resnet32x4 -> resnet8x4. MLKD's
# weight is 9 or 6, and the first of its temperatures is the one that is tuned
@loss_modifier(
    "ls",
    title="{}+LS",
    of={
        KD: {"temperature": 2.0, "weight": 9.0},
        DKD: {"temperature": 2.0, "weight": 9.0},
        MLKD: {"temperatures": (2.0, 3.0, 5.0, 2.0, 6.0), "weight": 9.0},
        RLD: {"temperature": 2.0, "alpha_temperature": 2.0, "weight": 9.0},
    },
)
class LS(LossModifier):
    """Standardize the logits of both networks, sample by sample, before the loss of `kd`, `dkd`, `mlkd` or `rld`.

    MLKD's class and batch terms keep the logits as they are. Scale-decoupled, every region is standardized by itself,
    which makes the logits of flat regions larger; the weights of the regions do not change.
    """

    #: the standard deviation divides by K - 1 (`sample`: the released code) or by K (`population`: the paper)
    deviation: Literal["sample", "population"] = "sample"

    def modified(self, loss: PerSample) -> PerSample:
        correction = 1 if self.deviation == "sample" else 0

        def of_standardized(student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor) -> Tensor:
            student, teacher = (standardized(at_least_fp32(z), correction) for z in (student_NK, teacher_NK))
            return loss(student, teacher, target_N)

        return of_standardized
