"""Training views by name, for a distiller's `views`. A new view is a function that is registered here.

Every view is a random crop and flip of each image, drawn for the view's name, then changed by the view's function.

Shape letters: B batch, C channels, S side of the image a network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from benchmark.datasets import randaugment
from benchmark.errors import UserError
from benchmark.registry import Registry

#: changes the (B, C, S, S) uint8 crops of the images at these places of the epoch's order
Alter = Callable[[Tensor, slice], Tensor]
#: (number of images, side S, seed, epoch) -> the change to an epoch's crops, or None to leave them unchanged. All draws
#: follow from these arguments and the view's own name, so that no view depends on another
View = Callable[[int, int, int, int], Alter | None]

#: the view of every training: its accuracy is tracked, and a view cache holds it
USUAL = "weak"

registry: Registry[View] = Registry("view")


@registry.register("weak")
def weak(num_images: int, side: int, seed: int, epoch: int) -> None:
    """Crop and flip at random."""


@registry.register("strong")
def strong(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Crop and flip at random, then RandAugment(2, 10) and cutout: the strong view of MLKD."""
    draws = randaugment.draw(num_images, side, seed, epoch, "strong")
    return lambda crops_BCHW, part: randaugment.apply(crops_BCHW, draws, part)


def check(distiller: str, names: Sequence[str]) -> None:
    """Raise UserError unless a distiller's views are registered, each named once, and `weak` is among them."""
    for name in names:
        try:
            registry.get(name)
        except UserError as error:
            raise UserError(f"distiller '{distiller}': {error}") from None
    if USUAL not in names or len(set(names)) != len(names):
        raise UserError(f"distiller '{distiller}': views {', '.join(names)}: must hold '{USUAL}', and each view once")
