"""SRRL: Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from distillers.base import Extras, Facts, NonNegative, Outputs, Sees
from distillers.feature_loss import FeatureLoss, Norm, embedding_of, embedding_size, feature_loss
from distillers.network import Network


@feature_loss("srrl", title="SRRL")
class SRRL(FeatureLoss):
    """CE + KD + squared errors of the student's connected embedding, and of the teacher's logits for it.

    The connector is a linear layer, batch norm and ReLU; the teacher's own head classifies what it gives.
    """

    kd_weight: NonNegative = 1.0

    sees: ClassVar[Sees] = "map"

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        before, after = (embedding_size(network, facts.image_size) for network in (student, teacher))
        return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), Norm(after), nn.ReLU(inplace=True))

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        connector, head = cast(nn.Module, extras.modules), teacher.head
        assert head is not None
        connected_BD = connector(embedding_of(student)[:, :, None, None])[:, :, 0, 0]
        return mse_loss(connected_BD, embedding_of(teacher)) + mse_loss(head(connected_BD), teacher.logits)
