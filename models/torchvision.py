"""`torchvision/<name>`: torchvision's classification models whose head is an average pool and a classifier."""

from __future__ import annotations

from functools import partial

from benchmark.errors import UserError, nearest
from distillers.classifiers import TorchvisionNetwork, adopt
from models.base import Network, NetworkFactory, registry


def create(name: str, num_classes: int, image_size: int) -> Network:
    """Make torchvision's model `name` with random weights. Raises UserError when unknown or when its head differs."""
    import torchvision  # it takes seconds to import, and most commands do not need it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"torchvision has no classification model '{name}'{nearest(name, known)}")
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    return adopt(f"torchvision/{name}", TorchvisionNetwork(model), model, image_size)


def factory(name: str) -> NetworkFactory:
    """Registry entry of `torchvision/<name>`."""
    return partial(create, name)


registry.family("torchvision", factory)
