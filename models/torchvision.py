"""`torchvision/<name>`: torchvision's classification models whose head is an average pool and a classifier."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from models.base import Network, NetworkFactory, registry
from models.wrapped import adopt

HEADS = ("fc", "classifier", "head", "heads")


class TorchvisionNetwork(Network):
    """A torchvision model: the layers before `avgpool`, in their order, compute the map; the layer after it classifies.

    The layers keep their names, so torchvision's weight files load unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        children = dict(model.named_children())
        self._head = next(name for name in HEADS if name in children)
        self._body = []
        for name, child in children.items():
            if name in ("avgpool", self._head):
                break
            self._body.append(name)
            self.add_module(name, child)
        self.add_module(self._head, children[self._head])
        # DenseNet's last ReLU, and ConvNeXt's flattening of the pooled map, are not among the layers before the head
        self._relu = type(model).__name__ == "DenseNet"
        self._pooled_map = any(isinstance(module, nn.Flatten) for module in children[self._head].modules())

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for name in self._body:
            x = self.get_submodule(name)(x)
        return x.relu() if self._relu else x

    def classify(self, pooled_D: Tensor) -> Tensor:
        head = self.get_submodule(self._head)
        if not self._pooled_map:
            logits: Tensor = head(pooled_D)
            return logits
        flat: Tensor = head(pooled_D.reshape(-1, pooled_D.shape[-1], 1, 1))
        return flat.reshape(*pooled_D.shape[:-1], -1)


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
