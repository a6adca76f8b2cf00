"""`timm/<name>`: models of timm (an optional extra) with a feature map and an average-pooling head."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from benchmark.errors import UserError, nearest
from models.base import Network, NetworkFactory, registry
from models.wrapped import adopt


class TimmNetwork(Network):
    """A timm model, split by timm into features and head; the head classifies a pooled vector as a map of one cell."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        map_BDHW: Tensor = self.network.forward_features(x_BCHW)
        return map_BDHW

    def classify(self, pooled_D: Tensor) -> Tensor:
        flat: Tensor = self.network.forward_head(pooled_D.reshape(-1, pooled_D.shape[-1], 1, 1))
        return flat.reshape(*pooled_D.shape[:-1], -1)


def create(name: str, num_classes: int, image_size: int) -> Network:
    """Make timm's model `name` with random weights.

    Raises UserError when timm is not installed, the name is unknown, or the head does not classify the average.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model 'timm/{name}' needs timm: pip install 'timm>=1.0.15'") from error
    if not timm.is_model(name):
        raise UserError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    model = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return adopt(f"timm/{name}", TimmNetwork(model), model, image_size)


def factory(name: str) -> NetworkFactory:
    """Registry entry of `timm/<name>`."""
    return partial(create, name)


registry.family("timm", factory)
