"""NST: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017 (1707.01219)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillers.base import Extras, NonNegative, Outputs
from distillers.feature_loss import FeatureLoss, feature_loss, paired_stages


def channel_kernel(a_BDP: Tensor, b_BEP: Tensor) -> Tensor:
    """Mean squared dot product of the channels of two maps, over all pairs and the batch. Huang, Wang 2017."""
    return (a_BDP @ b_BEP.transpose(1, 2)).square().mean()


@feature_loss("nst", title="NST")
class NST(FeatureLoss):
    """CE + 50 sum over stages of the maximum mean discrepancy between the channels, with a polynomial kernel."""

    weight: NonNegative = 50.0

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        terms = []
        for pair in paired_stages(student, teacher):
            s_BDP, t_BEP = (normalize(x.flatten(2), dim=2) for x in pair)
            within = channel_kernel(t_BEP, t_BEP) + channel_kernel(s_BDP, s_BDP)
            terms.append(within - 2 * channel_kernel(t_BEP, s_BDP))
        return torch.stack(terms).sum()
