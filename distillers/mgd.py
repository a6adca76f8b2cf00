"""MGD: Yang et al., "Masked Generative Distillation", ECCV 2022 (arXiv 2205.01529)."""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from distillers.base import Extras, Facts, NonNegative, Outputs, Sees, UnfitPair
from distillers.feature_loss import FeatureLoss, feature_loss, last_map_of, map_shape
from distillers.hashing import END, hashed
from distillers.network import Network


class Generation(nn.Module):
    """Two 3 x 3 convolutions that make up a teacher's map from a student's, of which channels are left out."""

    salt: Tensor

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        is_equal = student_channels == teacher_channels
        self.align = nn.Identity() if is_equal else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )
        self.teacher_channels = teacher_channels
        self.register_buffer("salt", torch.randint(END, ()))

    def uniform(self, index_B: Tensor, epoch: int | Tensor) -> Tensor:
        """Draw a number from 0 to 1 for every image and channel, (B, C), as a function of (salt, epoch, image)."""
        channel_C = torch.arange(self.teacher_channels, device=index_B.device)
        return hashed(self.salt, epoch, index_B[:, None], channel_C) / END

    def forward(self, map_BDHW: Tensor, index_B: Tensor, epoch: int | Tensor, ratio: float) -> Tensor:
        """Make up the teacher's map, with a fraction `ratio` of each image's channels left out."""
        is_kept_BC = self.uniform(index_B, epoch) >= ratio
        made: Tensor = self.generation(self.align(map_BDHW) * is_kept_BC[:, :, None, None])
        return made


@feature_loss("mgd", title="MGD")
class MGD(FeatureLoss):
    """CE + 7e-5 squared error, summed over the map and averaged over images, of a teacher's map that is made up.

    A 1 x 1 convolution (for unequal widths) and two of 3 x 3, ReLU between them, make it from the student's last map,
    of which each channel of each image is left out with a chance of 0.15. As in the released code for ImageNet, whose
    maps have to be equal in size; there is none for CIFAR-100.
    """

    weight: NonNegative = 7e-5
    #: chance of a channel to be left out
    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.15

    sees: ClassVar[Sees] = "map"

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        (own, s_side), (shown, t_side) = (map_shape(network, facts.image_size) for network in (student, teacher))
        if s_side != t_side:
            raise UnfitPair(f"maps of equal size are compared: the student's has a side of {s_side}, not {t_side}")
        return Generation(own, shown)

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        if extras.index_B is None:
            raise ValueError("mgd draws by image: it needs their numbers in the training set")
        generation = cast(Generation, extras.modules)
        made_BDHW = generation(last_map_of(student), extras.index_B, extras.epoch, self.ratio)
        return mse_loss(made_BDHW, last_map_of(teacher), reduction="sum") / len(target_B)
