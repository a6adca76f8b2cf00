"""CAT-KD: Guo et al., "Class Attention Transfer Based Knowledge Distillation", CVPR 2023 (arXiv 2304.12777)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss, normalize

from distillers.base import Extras, Facts, NonNegative, Outputs, Sees, UnfitPair
from distillers.feature_loss import FeatureLoss, feature_loss, last_map_of
from distillers.network import Network


def class_maps(outputs: Outputs) -> Tensor:
    """The head's weight, without its bias, on every place of the last map, (B, K, H, W). Guo et al., CVPR 2023."""
    map_BDHW, head = last_map_of(outputs), outputs.head
    assert head is not None
    scores_BPK: Tensor = head(map_BDHW.flatten(2).transpose(1, 2)) - head(map_BDHW.new_zeros(1, 1, map_BDHW.shape[1]))
    return scores_BPK.transpose(1, 2).reshape(len(map_BDHW), -1, *map_BDHW.shape[2:])


# set per pair in the paper; these are those of resnet32x4 -> resnet8x4
@feature_loss("cat_kd", title="CAT-KD")
class CATKD(FeatureLoss):
    """CE + 15 mean squared error of the class activation maps of both networks, pooled to 2 x 2.

    The gradient reaches the student's head too. The released code removes the bias of both heads; here the maps leave
    it out, and the heads keep it.
    """

    weight: NonNegative = 15.0
    #: side that the class maps are pooled to
    resolution: Annotated[int, Field(ge=1, le=64)] = 2
    #: the map of every class has L2 norm 1
    normalized: bool = False

    sees: ClassVar[Sees] = "map"

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        for whose, network in (("student", student), ("teacher", teacher)):
            if not network.linear_head:
                raise UnfitPair(f"class activation maps need a linear head, and the {whose}'s is none")
        return None

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s, t = (
            adaptive_avg_pool2d(class_maps(seen), (self.resolution, self.resolution)) for seen in (student, teacher)
        )
        if self.normalized:
            s, t = (normalize(x.flatten(2), dim=2) for x in (s, t))
        return mse_loss(s, t)
