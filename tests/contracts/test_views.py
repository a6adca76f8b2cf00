"""What every registered view promises; a new one is under test as soon as its file exists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from benchmark.datasets import views
from benchmark.datasets.views import Alter, View
from benchmark.randomness import generator

NUM_IMAGES, SIDE = 24, 16


def seen(view: View, epoch: int = 1, cuts: Sequence[int] = (), seed: int = 3) -> Tensor:
    """An epoch of noise in a view, cut into batches at these places, which are asked for from the last to the first."""
    crops_NCHW = torch.randint(256, (NUM_IMAGES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator("crops"))
    alter = view(NUM_IMAGES, SIDE, seed, epoch)
    if alter is None:
        return crops_NCHW
    ends = [0, *cuts, NUM_IMAGES]
    parts = [slice(*part) for part in pairwise(ends)]
    made = [alter(crops_NCHW[part], part) for part in reversed(parts)]
    for part, found in zip(reversed(parts), made, strict=True):
        assert found.dtype == torch.uint8, f"the view gives {found.dtype}, crops are uint8"
        assert found.shape == crops_NCHW[part].shape, f"the view gives {tuple(found.shape)}, crops keep their shape"
    return torch.cat(made[::-1])


def check_draws(view: View) -> None:
    """Nothing but the seed and the epoch decides what is drawn."""
    for seed, epoch in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(0)
        first = seen(view, epoch, seed=seed)
        torch.manual_seed(1)
        assert torch.equal(first, seen(view, epoch, seed=seed)), (
            "two times the same epoch differ: draw from benchmark.randomness.generator(seed, ..., epoch, view)"
        )


def check_cuts(view: View) -> None:
    """An image's view follows from its place in the epoch, however the epoch is cut into batches."""
    whole = seen(view)
    for cuts in ((1,), (7, 8, 23), tuple(range(1, NUM_IMAGES))):
        assert torch.equal(seen(view, cuts=cuts), whole), (
            "the view depends on how the epoch is cut into batches: draw once per image, and take those of `part`"
        )


@pytest.mark.parametrize("name", views.registry.names())
def test_keeps_uint8_crops_of_one_shape(name: str) -> None:
    assert seen(views.registry.get(name)).shape == (NUM_IMAGES, 3, SIDE, SIDE)


@pytest.mark.parametrize("name", views.registry.names())
def test_is_a_function_of_seed_and_epoch(name: str) -> None:
    check_draws(views.registry.get(name))


@pytest.mark.parametrize("name", views.registry.names())
def test_is_a_function_of_an_images_place_in_the_epoch(name: str) -> None:
    check_cuts(views.registry.get(name))


def noise(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Draws from the global stream."""
    return lambda crops_BCHW, part: torch.randint_like(crops_BCHW, 256)


def first_factors(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Gives the first images of every batch the same factors."""
    factor_N = torch.rand(num_images, 1, 1, 1, generator=generator(seed, "factor", epoch, "first"))
    return lambda crops_BCHW, part: (crops_BCHW * factor_N[: len(crops_BCHW)]).byte()


def mean_of_batch(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Looks at the other images of the batch."""
    return lambda crops_BCHW, part: (crops_BCHW / 2 + crops_BCHW.float().mean(0) / 2).byte()


def floats(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Forgets to go back to integers."""
    return lambda crops_BCHW, part: crops_BCHW * 0.5


def one_channel(num_images: int, side: int, seed: int, epoch: int) -> Alter:
    """Drops the colours."""
    return lambda crops_BCHW, part: crops_BCHW[:, :1]


def test_what_is_no_view_fails() -> None:
    with pytest.raises(AssertionError, match="two times the same epoch differ"):
        check_draws(noise)
    for view in (first_factors, mean_of_batch):
        check_draws(view)
        with pytest.raises(AssertionError, match="cut into batches"):
            check_cuts(view)
    with pytest.raises(AssertionError, match=r"the view gives torch.float32"):
        seen(floats)
    with pytest.raises(AssertionError, match=r"the view gives \(24, 1, 16, 16\)"):
        seen(one_channel)
