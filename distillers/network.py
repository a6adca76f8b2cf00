"""What scale decoupling needs of a network: a feature map, and a classifier of vectors pooled from it.

Shape letters: B batch, D channels, H and W height and width (of an image or a map), K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


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

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Compute the network's own logits, (B, K)."""
        logits: Tensor = self.classify(self.forward_features(x_BCHW).mean(dim=(2, 3)))
        return logits
