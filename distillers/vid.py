"""VID: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019 (arXiv 1904.05835)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from distillers.base import Extras, Facts, Outputs
from distillers.feature_loss import FeatureLoss, feature_loss, features_of, same_side, stage_shapes
from distillers.network import Network

#: a variance is never below
_LEAST = 1e-5


class Predictor(nn.Module):
    """A normal distribution of a teacher's map given a student's: three 1 x 1 convolutions, a variance a channel."""

    def __init__(self, student_channels: int, teacher_channels: int, variance: float, is_trained: bool) -> None:
        super().__init__()
        widths = (student_channels, *[teacher_channels] * 3)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 1, bias=False), nn.ReLU(inplace=True)]
        self.regressor = nn.Sequential(*layers[:-1])
        #: the variance is softplus of it
        scale = torch.full((teacher_channels,), math.log(math.exp(variance - _LEAST) - 1))
        self.log_scale = nn.Parameter(scale, requires_grad=is_trained)

    def forward(self, student_BDHW: Tensor, teacher_BDHW: Tensor) -> Tensor:
        """Compute the mean of 1/2 ((m(f_s) - f_t)^2 / v + log v). Ahn et al., CVPR 2019."""
        student_BDHW, teacher_BDHW = same_side(student_BDHW, teacher_BDHW)
        variance = (softplus(self.log_scale) + _LEAST)[:, None, None]
        mean_BDHW = self.regressor(student_BDHW)
        likelihood: Tensor = 0.5 * ((mean_BDHW - teacher_BDHW).square() / variance + variance.log()).mean()
        return likelihood


@feature_loss("vid", title="VID")
class VID(FeatureLoss):
    """CE + the negative log-likelihood of the teacher's maps given the student's, summed over the stages.

    Stages are paired from the front; what one network has more of is left out.
    """

    #: initial variance of every channel
    variance: Annotated[float, Field(ge=1e-4, le=500)] = 5.0
    #: the variances are trained, as in the paper and the code that printed its numbers; the toolbox mdistiller's stay
    trained_variance: bool = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        shapes = zip(*(stage_shapes(network, facts.image_size) for network in (student, teacher)), strict=False)
        return nn.ModuleList(Predictor(s, t, self.variance, self.trained_variance) for (s, _), (t, _) in shapes)

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        predictors = cast(nn.ModuleList, extras.modules)
        stages = zip(predictors, features_of(student), features_of(teacher), strict=False)
        return torch.stack([predictor(s, t) for predictor, s, t in stages]).sum()
