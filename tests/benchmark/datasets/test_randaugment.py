"""RandAugment on whole batches against Pillow, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from benchmark.datasets import randaugment
from benchmark.datasets.randaugment import CODE, CUTOUT_COLOR, OPERATIONS, Draws, apply, draw

BLENDS = ("brightness", "contrast", "color", "sharpness")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


#: the operations as FixMatch's code calls them
PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, value: ImageOps.posterize(image, int(value)),
    "solarize": lambda image, value: ImageOps.solarize(image, value),  # type: ignore[arg-type]
    "brightness": lambda image, value: ImageEnhance.Brightness(image).enhance(value),
    "contrast": lambda image, value: ImageEnhance.Contrast(image).enhance(value),
    "color": lambda image, value: ImageEnhance.Color(image).enhance(value),
    "sharpness": lambda image, value: ImageEnhance.Sharpness(image).enhance(value),
    "rotate": lambda image, value: image.rotate(value),
    "shear_x": lambda image, value: affine(image, 1, value, 0, 0, 1, 0),
    "shear_y": lambda image, value: affine(image, 1, 0, 0, value, 1, 0),
    "translate_x": lambda image, value: affine(image, 1, 0, value * image.width, 0, 1, 0),
    "translate_y": lambda image, value: affine(image, 1, 0, 0, 0, 1, value * image.height),
}


def photos(count: int, side: int) -> Tensor:
    """Smooth images of every contrast, one of them flat."""
    rng = np.random.RandomState(side)
    images = []
    for number in range(count):
        coarse = Image.fromarray(rng.randint(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)
        low, high = sorted(rng.uniform(0, 255, 2)) if number else (90, 90)
        images.append((low + pixels / 255 * (high - low)).astype(np.uint8))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def pillow(name: str, pixels_CHW: Tensor, value: float) -> Tensor:
    image = PILLOW[name](Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy()), value)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def no_cutout(count: int) -> Tensor:
    return torch.tensor([[0, 0, -1, -1]]).expand(count, 4)


def test_every_operation_is_covered() -> None:
    assert len(OPERATIONS) == 14
    assert set(OPERATIONS) == set(PILLOW)


@pytest.mark.parametrize("side", [32, 45])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_pillows(name: str, side: int) -> None:
    pixels, (low, high) = photos(24, side), OPERATIONS[name]
    values = torch.linspace(low, high, 25, dtype=torch.float64)[:-1]  # the upper end is never drawn
    ops = torch.stack([torch.full((24,), CODE[name]), torch.full((24,), CODE["identity"])])
    out = apply(pixels, Draws(ops, values.expand(2, -1), no_cutout(24)), slice(0, 24))
    for image, value, found in zip(pixels, values, out, strict=True):
        gap = (found.int() - pillow(name, image, value.item()).int()).abs()
        if name in GEOMETRIC:
            assert (gap == 0).float().mean() >= 0.97
        else:
            assert gap.max() <= (1 if name in BLENDS else 0)


def test_whole_view_is_pillows() -> None:
    pixels = photos(64, 32)
    draws = draw(64, 32, seed=3, epoch=1, view="strong")
    out = apply(pixels, draws, slice(0, 64))
    same = []
    for number, found in enumerate(out):
        expected = pixels[number]
        for op, value in zip(draws.op_SN[:, number], draws.value_SN[:, number], strict=True):
            expected = pillow(list(OPERATIONS)[op], expected, value.item())
        image = Image.fromarray(expected.permute(1, 2, 0).numpy())
        ImageDraw.Draw(image).rectangle(draws.box_N4[number].tolist(), CUTOUT_COLOR)
        same.append((torch.from_numpy(np.array(image)).permute(2, 0, 1) == found).float().mean())
    assert torch.stack(same).mean() >= 0.97


def test_view_depends_on_no_other_image() -> None:
    pixels = photos(50, 32)
    draws = draw(50, 32, seed=0, epoch=2, view="strong")
    whole = apply(pixels, draws, slice(0, 50))
    for start, stop in ((0, 1), (1, 17), (17, 50)):
        assert torch.equal(apply(pixels[start:stop], draws, slice(start, stop)), whole[start:stop])


def test_pixels_given_stay_as_they_are() -> None:
    pixels = photos(30, 32)
    before = pixels.clone()
    apply(pixels, draw(30, 32, seed=0, epoch=1, view="strong"), slice(0, 30))
    assert torch.equal(pixels, before)


def test_draws_are_a_function_of_the_key() -> None:
    first, again = (draw(100, 32, seed=1, epoch=2, view="strong") for _ in range(2))
    for name in ("op_SN", "value_SN", "box_N4"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for seed, epoch, view in ((0, 2, "strong"), (1, 3, "strong"), (1, 2, "other")):
        assert not torch.equal(first.op_SN, draw(100, 32, seed, epoch, view).op_SN)


def test_draws_fill_their_ranges() -> None:
    side, count = 32, 20000
    draws = draw(count, side, seed=0, epoch=1, view="strong")
    assert draws.op_SN.flatten().bincount(minlength=14).float().div(2 * count).sub(1 / 14).abs().max() < 0.005
    for name, (low, high) in OPERATIONS.items():
        values = draws.value_SN[draws.op_SN == CODE[name]]
        margin = 0.02 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() < high
    assert not torch.equal(draws.op_SN[0], draws.op_SN[1])
    left, top, right, bottom = draws.box_N4.unbind(1)
    assert min(left.min(), top.min()) == 0
    assert max(right.max(), bottom.max()) == side
    assert max((right - left).max(), (bottom - top).max()) <= randaugment.CUTOUT_SHARE * side
