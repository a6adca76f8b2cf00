"""PKT: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distillers.base import Extras, NonNegative, Outputs, Sees
from distillers.feature_loss import FeatureLoss, embedding_of, feature_loss

_EPSILON = 1e-7


def affinities(embedding_BD: Tensor) -> Tensor:
    """Cosines between embeddings, (c + 1) / 2, each row with sum 1, (B, B). Passalis, Tefas, ECCV 2018."""
    unit_BD = embedding_BD / (embedding_BD.square().sum(1, keepdim=True).sqrt() + _EPSILON)
    cosine_BB = (unit_BD @ unit_BD.T + 1) / 2
    return cosine_BB / cosine_BB.sum(1, keepdim=True)


@feature_loss("pkt", title="PKT")
class PKT(FeatureLoss):
    """CE + 30000 mean of P_t log(P_t / P_s), P the affinities between the embeddings of the batch."""

    weight: NonNegative = 30000.0

    sees: ClassVar[Sees] = "map"
    couples_batch: ClassVar[bool] = True

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s_BB, t_BB = (affinities(embedding_of(seen)) for seen in (student, teacher))
        return (t_BB * ((t_BB + _EPSILON) / (s_BB + _EPSILON)).log()).mean()
