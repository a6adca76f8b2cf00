"""SimKD: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022 (arXiv 2203.14001)."""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from distillers.base import Extras, Facts, NonNegative, Outputs
from distillers.feature_loss import (
    FeatureLoss,
    Norm,
    feature_loss,
    features_of,
    last_map_of,
    linear_head_of,
    probe,
    same_side,
)
from distillers.network import Network


class Reuse(nn.Module):
    """A projector from the student's last stage to the teacher's last map, and a copy of the teacher's head."""

    def __init__(self, in_channels: int, out_channels: int, factor: int, side: int, head: nn.Linear) -> None:
        super().__init__()
        width = max(out_channels // factor, 1)
        self.transfer = nn.Sequential(
            *_conv_bn_relu(in_channels, width, 1),
            *_conv_bn_relu(width, width, 3),
            *_conv_bn_relu(width, out_channels, 1),
        )
        #: largest side that a map is projected at: the teacher's
        self.side = side
        self.head = copy.deepcopy(head).requires_grad_(False)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """Project the student's map to the teacher's channels, at the smaller of both sides."""
        if map_BDHW.shape[2] > self.side:
            map_BDHW = adaptive_avg_pool2d(map_BDHW, (self.side, self.side))
        projected: Tensor = self.transfer(map_BDHW)
        return projected


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return [convolution, Norm(out_channels), nn.ReLU(inplace=True)]


@feature_loss("simkd", title="SimKD")
class SimKD(FeatureLoss):
    """Mean squared error between the teacher's last map and the student's, through a projector; no CE.

    The student is tested with the projector and the teacher's head: it has more parameters than the others'.
    """

    ce_weight: NonNegative = 0.0
    #: the projector's inner width is the teacher's over this
    factor: Annotated[int, Field(ge=1, le=64)] = 2

    is_tested_with_modules: ClassVar[bool] = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        in_channels = probe(student, facts.image_size).maps[-1].shape[1]
        teacher_map = probe(teacher, facts.image_size).map
        return Reuse(in_channels, teacher_map.shape[1], self.factor, teacher_map.shape[2], linear_head_of(teacher))

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        projected = cast(Reuse, extras.modules)(features_of(student)[-1])
        projected, map_BDHW = same_side(projected, last_map_of(teacher))
        return mse_loss(projected, map_BDHW)

    def tested_logits(self, student: Outputs, extras: Extras) -> Tensor:
        reuse = cast(Reuse, extras.modules)
        logits_BK: Tensor = reuse.head(reuse(features_of(student)[-1]).mean(dim=(2, 3)))
        return logits_BK
