"""What scale decoupling needs of a network: a feature map, and a classifier of vectors pooled from it.

Shape letters: B batch, D channels, H and W height and width (of an image or a map), K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Stages(NamedTuple):
    """Feature maps after the stages of a network, the stem left out, as the literature's feature methods take them."""

    #: (B, D, H, W) each, in the published convention of the network's family: mostly after the last activation
    maps: tuple[Tensor, ...]
    #: the same before that activation; empty where the published code of the family has none
    pre_activations: tuple[Tensor, ...]
    #: (B, D, H, W): the last feature map, which the head classifies; in some families it is not the last stage's
    map: Tensor

    def map_all(self, change: Callable[[Tensor], Tensor]) -> Stages:
        """Apply a function to every map."""
        maps, pre_activations = (tuple(change(x) for x in each) for each in (self.maps, self.pre_activations))
        return Stages(maps, pre_activations, change(self.map))

    @property
    def embedding(self) -> Tensor:
        """(B, D): the mean of the last feature map, which the head turns into the network's own logits."""
        return self.map.mean(dim=(2, 3))


class Network(nn.Module, ABC):
    """A classifier whose logits are `classify(mean over H and W of forward_features(x))`.

    Scales belong to the head: a caller pools the map as it likes and classifies every cell with the same head. No
    network knows which distiller uses it.
    """

    #: classify is affine in its input, so that it commutes with average pooling
    linear_head: bool = True
    #: smallest image side, in pixels, that leaves a feature map of one cell
    min_image_size: int = 1

    @abstractmethod
    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Compute the last feature map, (B, D, H, W)."""

    @abstractmethod
    def classify(self, pooled_D: Tensor) -> Tensor:
        """Compute logits, (..., K), from pooled features, (..., D), with any leading axes."""

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        """Compute the maps after every stage, and the last feature map, equal to that of `forward_features`.

        Raises NotImplementedError for a network whose family has no published stages.
        """
        raise NotImplementedError(f"{type(self).__name__} has no stages")

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        """Batch norms that give the pre-activation of every stage; () where not every stage ends so."""
        return ()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Compute the network's own logits, (B, K)."""
        logits: Tensor = self.classify(self.forward_features(x_BCHW).mean(dim=(2, 3)))
        return logits
