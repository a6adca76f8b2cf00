"""`timm/<name>`: models of timm (an optional extra) with a feature map and an average-pooling head."""

from __future__ import annotations

from functools import partial

from benchmark.errors import UserError, nearest
from distillers.classifiers import TimmNetwork, adopt
from models.base import Network, NetworkFactory, registry


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
