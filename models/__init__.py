"""Networks by name. Each file in this package registers its own networks; no list elsewhere names them."""

from __future__ import annotations

from benchmark.errors import UserError
from benchmark.registry import import_modules
from models.base import Network, registry

__all__ = ["Network", "create", "names", "registry"]

import_modules(__name__, list(__path__))


def create(name: str, num_classes: int, image_size: int) -> Network:
    """Make a freshly initialised network for square images of `image_size` pixels; weights from torch's global RNG.

    Raises UserError when the name is unknown, when the image is too small for a feature map, or when the logits of a
    `torchvision/<name>` or `timm/<name>` model are not `classify(mean(map))`.
    """
    network = registry.get(name)(num_classes, image_size)
    if image_size < network.min_image_size:
        raise UserError(
            f"model '{name}' needs images of at least {network.min_image_size} pixels: "
            f"at image size {image_size} no feature map is left"
        )
    return network


def names(pattern: str = "*") -> list[str]:
    """Names of the registered networks that match a shell pattern, sorted, without `torchvision/...` and `timm/...`."""
    return registry.names(pattern)
