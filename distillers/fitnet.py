"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv 1412.6550)."""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from distillers.base import Extras, Facts, NonNegative, Outputs, UnfitPair
from distillers.feature_loss import FeatureLoss, Norm, feature_loss, features_of, stage_shapes
from distillers.network import Network


class Regressor(nn.Module):
    """A convolution from a student's map to the shape of a teacher's, then batch norm and ReLU."""

    def __init__(self, student: tuple[int, int], teacher: tuple[int, int]) -> None:
        """Take (channels, side) of both maps.

        The convolution is 1 x 1 for equal sides, 3 x 3 with stride 2 for twice the side, transposed 4 x 4 with stride 2
        for half of it, and for any other larger side as wide as the difference and one, without padding. Raises
        UnfitPair for other smaller sides.
        """
        super().__init__()
        (in_channels, s_side), (out_channels, t_side) = student, teacher
        if s_side == t_side:
            self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, 1)
        elif s_side == 2 * t_side:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        elif 2 * s_side == t_side:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        elif s_side > t_side:
            self.conv = nn.Conv2d(in_channels, out_channels, 1 + s_side - t_side)
        else:
            raise UnfitPair(f"no convolution turns a map of side {s_side} into one of side {t_side}")
        self.bn = Norm(out_channels)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        fitted: Tensor = self.bn(self.conv(map_BDHW)).relu()
        return fitted


# the paper trains the connector and the lower half of the student first; the released codes train all at once
@feature_loss("fitnet", title="FitNet")
class FitNet(FeatureLoss):
    """CE + 100 mean squared error between the teacher's map of stage 2 and the student's, through a connector."""

    weight: NonNegative = 100.0
    #: the stage that is compared, from 1
    stage: Annotated[int, Field(ge=1, le=4)] = 2

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        shapes = [stage_shapes(network, facts.image_size) for network in (student, teacher)]
        if self.stage > min(map(len, shapes)):
            raise UnfitPair(
                f"stage {self.stage} is asked for, and the networks have {len(shapes[0])}, {len(shapes[1])}"
            )
        return Regressor(shapes[0][self.stage - 1], shapes[1][self.stage - 1])

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s_BDHW, t_BDHW = (features_of(seen)[self.stage - 1] for seen in (student, teacher))
        return mse_loss(cast(nn.Module, extras.modules)(s_BDHW), t_BDHW)
