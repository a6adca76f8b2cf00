"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv 1612.03928)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillers.base import Extras, NonNegative, Outputs
from distillers.feature_loss import FeatureLoss, feature_loss, paired_stages


def attention(map_BDHW: Tensor) -> Tensor:
    """Mean over the channels of the squares, with L2 norm 1, (B, H * W). Zagoruyko, Komodakis, ICLR 2017."""
    return normalize(map_BDHW.square().mean(1).flatten(1))


@feature_loss("at", title="AT")
class AT(FeatureLoss):
    """CE + 1000 sum over stages of the mean squared difference of attention maps.

    Stages are paired from the front; what one network has more of is left out.
    """

    weight: NonNegative = 1000.0

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        pairs = paired_stages(student, teacher)
        terms = [(attention(s) - attention(t)).square().mean() for s, t in pairs]
        return torch.stack(terms).sum()
