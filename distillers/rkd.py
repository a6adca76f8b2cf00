"""RKD: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019 (arXiv 1904.05068)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from distillers.base import Extras, NonNegative, Outputs, Sees
from distillers.feature_loss import FeatureLoss, embedding_of, feature_loss


def distances(embedding_BD: Tensor) -> Tensor:
    """Euclidean distances between embeddings over the mean of those that are positive, (B, B). Park et al., CVPR 2019.

    Squared distances below 1e-12 count as that, and the diagonal is 0.
    """
    dots_BB = embedding_BD @ embedding_BD.T
    squares_B = dots_BB.diagonal()
    squared_BB = (squares_B[:, None] + squares_B[None] - 2 * dots_BB).clamp(min=1e-12)
    others_BB = 1 - torch.eye(len(embedding_BD), dtype=embedding_BD.dtype, device=embedding_BD.device)
    distance_BB = squared_BB.sqrt() * others_BB
    positive_BB = (distance_BB > 0).to(distance_BB.dtype)
    # a batch of one has none, and no distance either
    mean = distance_BB.sum() / positive_BB.sum().clamp(min=1)
    return distance_BB / (mean + (mean == 0))


def angles(embedding_BD: Tensor) -> Tensor:
    """Cosines of the angle at every embedding between every two others, (B, B, B). Park et al., CVPR 2019."""
    directions_BBD = normalize(embedding_BD[None] - embedding_BD[:, None], dim=2)
    return directions_BBD @ directions_BBD.transpose(1, 2)


@feature_loss("rkd", title="RKD")
class RKD(FeatureLoss):
    """CE + 25 smooth L1 of the distances and 50 of the angles between the embeddings of the batch."""

    distance: NonNegative = 25.0
    angle: NonNegative = 50.0

    sees: ClassVar[Sees] = "map"
    couples_batch: ClassVar[bool] = True

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s_BD, t_BD = embedding_of(student), embedding_of(teacher)
        of_distances = smooth_l1_loss(distances(s_BD), distances(t_BD))
        return self.distance * of_distances + self.angle * smooth_l1_loss(angles(s_BD), angles(t_BD))
