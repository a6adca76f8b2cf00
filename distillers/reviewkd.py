"""ReviewKD: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021 (arXiv 2104.09044)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from distillers.base import Epochs, Extras, Facts, NonNegative, Outputs, UnfitPair
from distillers.feature_loss import (
    FeatureLoss,
    Norm,
    embedding_of,
    feature_loss,
    features_of,
    pre_activations_of,
    probe,
)
from distillers.network import Network

#: the fused maps have no more channels than these
_MOST_CHANNELS = 512
#: sides of the pyramid that maps are compared at, besides their own
_SIDES = (4, 2, 1)


class Fusion(nn.Module):
    """Attention-based fusion of a student's map with what deeper maps gave (Chen et al., CVPR 2021)."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, is_deepest: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, mid_channels, 1, bias=False), Norm(mid_channels))
        self.conv2 = nn.Sequential(nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False), Norm(out_channels))
        self.att_conv = None if is_deepest else nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid())
        for convolution in (self.conv1[0], self.conv2[0]):
            nn.init.kaiming_uniform_(cast(Tensor, convolution.weight), a=1)

    def forward(self, map_BDHW: Tensor, deeper_BDHW: Tensor | None, side: int) -> tuple[Tensor, Tensor]:
        """Compute the map that is compared with the teacher's, of its side, and the one for the next stage."""
        fused: Tensor = self.conv1(map_BDHW)
        if self.att_conv is not None and deeper_BDHW is not None:
            deeper_BDHW = interpolate(deeper_BDHW, fused.shape[2:], mode="nearest")
            gate_B2HW = self.att_conv(torch.cat([fused, deeper_BDHW], dim=1))
            fused = fused * gate_B2HW[:, :1] + deeper_BDHW * gate_B2HW[:, 1:]
        if fused.shape[2] != side:
            fused = interpolate(fused, (side, side), mode="nearest")
        return self.conv2(fused), fused


def pyramid_loss(student_BDHW: Tensor, teacher_BDHW: Tensor) -> Tensor:
    """Squared error of two maps and of their averages over 4 x 4, 2 x 2 and 1 x 1 cells, those below the map's side.

    The weights halve from 1 and are divided by their sum. Chen et al., CVPR 2021.
    """
    total, weight, weights = mse_loss(student_BDHW, teacher_BDHW), 1.0, 1.0
    for side in (side for side in _SIDES if side < student_BDHW.shape[2]):
        weight /= 2
        s, t = (adaptive_avg_pool2d(x, (side, side)) for x in (student_BDHW, teacher_BDHW))
        total, weights = total + weight * mse_loss(s, t), weights + weight
    return total / weights


# the weight is set per pair: 0.6 for resnet56 -> resnet20, 1 for resnet110 -> resnet32, 8 for resnet32x4 ->
# shufflenet_v2
@feature_loss("reviewkd", title="ReviewKD")
class ReviewKD(FeatureLoss):
    """CE + 5 sum over stages of a pyramid's squared error, from the student's fused maps to the teacher's.

    From the embedding upwards, each of the student's maps is fused with the deeper ones by a learnt attention, and
    compared with the teacher's map before its activation. Warm-up over 20 epochs.
    """

    weight: NonNegative = 5.0
    warmup_epochs: Epochs = 20

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        seen, shown = (probe(network, facts.image_size) for network in (student, teacher))
        if len(seen.maps) != len(shown.pre_activations):
            raise UnfitPair(
                f"every stage of the student is compared with one of the teacher before its activation: the student has"
                f" {len(seen.maps)}, the teacher {len(shown.pre_activations)}"
            )
        widths = [(s.shape[1], t.shape[1]) for s, t in zip(seen.maps, shown.pre_activations, strict=True)]
        widths.append((seen.map.shape[1], shown.map.shape[1]))
        mid = min(_MOST_CHANNELS, widths[-1][0])
        deepest_first = list(reversed(widths))
        return nn.ModuleList(Fusion(s, mid, t, number == 0) for number, (s, t) in enumerate(deepest_first))

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        students = [*features_of(student), embedding_of(student)[:, :, None, None]]
        teachers = [*pre_activations_of(teacher), embedding_of(teacher)[:, :, None, None]]
        terms, deeper = [], None
        fusions = cast(nn.ModuleList, extras.modules)
        for fusion, s, t in zip(fusions, reversed(students), reversed(teachers), strict=True):
            made, deeper = fusion(s, deeper, t.shape[2])
            terms.append(pyramid_loss(made, t))
        return torch.stack(terms).sum()
