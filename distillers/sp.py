"""SP: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019 (arXiv 1907.09682)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from distillers.base import Extras, NonNegative, Outputs
from distillers.feature_loss import FeatureLoss, feature_loss, features_of


def similarities(map_BDHW: Tensor) -> Tensor:
    """Dot products of the flattened maps of a batch, each row with L2 norm 1, (B, B). Tung, Mori, ICCV 2019."""
    rows = map_BDHW.flatten(1)
    return normalize(rows @ rows.T)


@feature_loss("sp", title="SP")
class SP(FeatureLoss):
    """CE + 3000 / B^2 times the squared differences of the similarities between images, at the last stage."""

    weight: NonNegative = 3000.0

    couples_batch: ClassVar[bool] = True

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s_BB, t_BB = (similarities(features_of(seen)[-1]) for seen in (student, teacher))
        return (s_BB - t_BB).square().mean()
