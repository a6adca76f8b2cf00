"""The strong view of MLKD: RandAugment(2, 10) and cutout on whole uint8 batches, on the device that holds them.

RandAugment (Cubuk et al., 2020) in the form of FixMatch (Sohn et al., 2020) that the released code of MLKD uses: two
operations per image, uniform with replacement from 14, each with its own magnitude uniform over the operation's range,
then a grey square. The "10" has no effect in this form: no magnitude is fixed.

The pixels are Pillow's: nearest resampling with its fixed-point coordinates, black outside, blends with the degenerate
image truncated to integers. The view of an image is a function of its own draws and pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from benchmark.randomness import generator

NUM_SLOTS = 2
CUTOUT_SHARE = 0.5
CUTOUT_COLOR = (125, 123, 114)
#: operation -> range of its magnitude. The order groups those that share an implementation: see `_apply_slot`.
OPERATIONS: dict[str, tuple[float, float]] = {
    "identity": (0, 1),
    "autocontrast": (0, 1),
    "equalize": (0, 1),
    "posterize": (4, 8),
    "solarize": (0, 256),
    "brightness": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "color": (0.05, 0.95),
    "sharpness": (0.05, 0.95),
    "rotate": (-30, 30),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
}
CODE = {name: code for code, name in enumerate(OPERATIONS)}


@dataclass(frozen=True)
class Draws:
    """Operations and cutouts of every image of an epoch, in the epoch's order; kept on the CPU."""

    #: (2, N) indices into OPERATIONS
    op_SN: Tensor
    #: (2, N) float64 magnitudes in the operation's own unit: bits, grey level, degrees, share of the side, blend factor
    value_SN: Tensor
    #: (N, 4) left, top, right, bottom of the cutout square, inclusive
    box_N4: Tensor


def draw(count: int, side: int, seed: int, epoch: int, view: str) -> Draws:
    """Draw the operations, magnitudes and cutouts of one epoch and view, for images of `side` x `side` pixels."""
    rng = generator(seed, "randaugment", epoch, view)
    low_O, high_O = torch.tensor(list(OPERATIONS.values()), dtype=torch.float64).T
    op_SN = torch.randint(len(OPERATIONS), (NUM_SLOTS, count), generator=rng)
    share_SN = torch.rand(NUM_SLOTS, count, dtype=torch.float64, generator=rng)
    value_SN = low_O[op_SN] + (high_O - low_O)[op_SN] * share_SN
    extent_N = torch.rand(count, dtype=torch.float64, generator=rng)[:, None] * CUTOUT_SHARE * side
    center_N2 = torch.rand(count, 2, dtype=torch.float64, generator=rng) * side
    corner_N2 = (center_N2 - extent_N / 2).clamp(min=0).floor()
    box_N4 = torch.cat([corner_N2, (corner_N2 + extent_N).clamp(max=side)], dim=1).long()
    return Draws(op_SN, value_SN, box_N4)


def apply(pixels_BCHW: Tensor, draws: Draws, part: slice) -> Tensor:
    """Make the strong view of a uint8 (B, 3, S, S) batch; `part` is the batch's place in the epoch."""
    for op_B, value_B in zip(draws.op_SN[:, part], draws.value_SN[:, part], strict=True):
        pixels_BCHW = _apply_slot(pixels_BCHW, op_B, value_B)
    return _cutout(pixels_BCHW, draws.box_N4[part])


def _apply_slot(pixels_BCHW: Tensor, op_B: Tensor, value_B: Tensor) -> Tensor:
    """Apply one operation per image; the groups are known on the CPU, so nothing is read from the device."""
    device, side = pixels_BCHW.device, pixels_BCHW.shape[-1]
    op_B, order_B = op_B.sort(stable=True)
    value_B = value_B[order_B]
    starts = torch.searchsorted(op_B, torch.arange(len(OPERATIONS) + 1)).tolist()
    on_device_B = order_B.to(device, non_blocking=True)
    factor_B = value_B.to(device, torch.float32, non_blocking=True)
    out_BCHW = pixels_BCHW.clone()

    def span(first: str, last: str) -> slice:
        return slice(starts[CODE[first]], starts[CODE[last] + 1])

    def put(group: slice, new_GCHW: Tensor) -> None:
        out_BCHW.index_copy_(0, on_device_B[group], new_GCHW)

    if (group := span("autocontrast", "contrast")).start < group.stop:
        source = pixels_BCHW[on_device_B[group]]
        tables = []
        for name in ("autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast"):
            if (own := span(name, name)).start < own.stop:
                members = source[own.start - group.start : own.stop - group.start]
                tables.append(_TABLES[name](members, factor_B[own]))
        put(group, _look_up(torch.cat(tables), source))
    if (group := span("color", "color")).start < group.stop:
        source = pixels_BCHW[on_device_B[group]]
        put(group, _blend(_grey(source)[:, None], source, factor_B[group].view(-1, 1, 1, 1)))
    if (group := span("sharpness", "sharpness")).start < group.stop:
        source = pixels_BCHW[on_device_B[group]]
        put(group, _blend(_smooth(source), source, factor_B[group].view(-1, 1, 1, 1)))
    if (group := span("rotate", "translate_y")).start < group.stop:
        affine_G6 = _affine(op_B[group], value_B[group], side).to(device, non_blocking=True)
        put(group, _resample(pixels_BCHW[on_device_B[group]], affine_G6))
    return out_BCHW


def _ramp(device: torch.device) -> Tensor:
    return torch.arange(256, device=device, dtype=torch.int32)


def _look_up(table_GC256: Tensor, pixels_GCHW: Tensor) -> Tensor:
    return table_GC256.gather(2, pixels_GCHW.flatten(2).long()).view_as(pixels_GCHW)


def _autocontrast(pixels_GCHW: Tensor, _: Tensor) -> Tensor:
    low_GC1, high_GC1 = (extreme[..., None].double() for extreme in pixels_GCHW.flatten(2).aminmax(dim=2))
    ramp = _ramp(pixels_GCHW.device)
    # a quotient of two tensors: `255 / tensor` multiplies by the reciprocal, which truncates to other integers
    scale_GC1 = torch.full_like(low_GC1, 255) / (high_GC1 - low_GC1).clamp(min=1)
    stretched = (ramp * scale_GC1 + -low_GC1 * scale_GC1).trunc().clamp(0, 255).int()
    return torch.where(high_GC1 > low_GC1, stretched, ramp).to(torch.uint8)


def _equalize(pixels_GCHW: Tensor, _: Tensor) -> Tensor:
    values = pixels_GCHW.flatten(2).long()
    ones = torch.ones((), dtype=torch.int32, device=values.device).expand_as(values)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=values.device).scatter_add_(2, values, ones)
    below = counts.cumsum(2, dtype=torch.int32) - counts
    brightest = values.amax(dim=2, keepdim=True)
    step = below.gather(2, brightest) // 255  # all pixels but the brightest
    level = (step // 2 + below) // step.clamp(min=1)
    return torch.where(step > 0, level.clamp(max=255), _ramp(values.device)).to(torch.uint8)


def _posterize(pixels_GCHW: Tensor, bits_G: Tensor) -> Tensor:
    mask_G11 = 256 - 2 ** (8 - bits_G.int()).view(-1, 1, 1)
    return (_ramp(pixels_GCHW.device) & mask_G11).to(torch.uint8).expand(-1, 3, -1)


def _solarize(pixels_GCHW: Tensor, threshold_G: Tensor) -> Tensor:
    ramp = _ramp(pixels_GCHW.device)
    return torch.where(ramp < threshold_G.view(-1, 1, 1), ramp, 255 - ramp).to(torch.uint8).expand(-1, 3, -1)


def _brightness(pixels_GCHW: Tensor, factor_G: Tensor) -> Tensor:
    ramp = _ramp(pixels_GCHW.device)
    return _blend(torch.zeros_like(ramp), ramp, factor_G.view(-1, 1, 1)).expand(-1, 3, -1)


def _contrast(pixels_GCHW: Tensor, factor_G: Tensor) -> Tensor:
    grey_GP = _grey(pixels_GCHW).flatten(1)
    count = grey_GP.shape[1]
    mean_G = (2 * grey_GP.sum(1) + count) // (2 * count)  # rounded half up
    ramp = _ramp(pixels_GCHW.device)
    return _blend(mean_G.view(-1, 1, 1), ramp, factor_G.view(-1, 1, 1)).expand(-1, 3, -1)


_TABLES = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "brightness": _brightness,
    "contrast": _contrast,
}


def _blend(degenerate: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """Blend as Pillow does, in float32, truncated."""
    degenerate = degenerate.float()
    return ((image.float() - degenerate) * factor + degenerate).to(torch.uint8)


def _grey(pixels_GCHW: Tensor) -> Tensor:
    """Luma (G, H, W) by ITU-R 601-2 in fixed point, as in Pillow's mode L."""
    red, green, blue = pixels_GCHW.int().unbind(1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _smooth(pixels_GCHW: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: (3 x 3 sum + 4 x centre) / 13, rounded; the border is unchanged."""
    values = pixels_GCHW.int()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[:, :, 1:-1, 1:-1]
    values[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    return values


def _affine(op_G: Tensor, value_G: Tensor, side: int) -> Tensor:
    """Compute the (G, 6) map from output to source pixels in Pillow's 16.16 fixed point, computed on the CPU."""
    one, none = torch.ones_like(value_G), torch.zeros_like(value_G)
    angle = torch.deg2rad(-value_G)
    cos, sin, half = angle.cos(), angle.sin(), side / 2
    shift = value_G * side
    coefficients_G6 = torch.empty(len(op_G), 6, dtype=torch.float64)
    for name, row in (
        ("rotate", (cos, sin, half - half * cos - half * sin, -sin, cos, half + half * sin - half * cos)),
        ("shear_x", (one, value_G, none, none, one, none)),
        ("shear_y", (one, none, none, value_G, one, none)),
        ("translate_x", (one, none, shift, none, one, none)),
        ("translate_y", (one, none, none, none, one, shift)),
    ):
        coefficients_G6 = torch.where((op_G == CODE[name])[:, None], torch.stack(row, dim=1), coefficients_G6)
    a, b, c, d, e, f = coefficients_G6.unbind(1)
    centered = torch.stack([a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2], dim=1)
    return (centered * 65536 + 0.5).floor().long()


def _resample(pixels_GCHW: Tensor, affine_G6: Tensor) -> Tensor:
    side = pixels_GCHW.shape[-1]
    a, b, c, d, e, f = affine_G6[:, :, None, None].unbind(1)
    y, x = torch.arange(side, device=pixels_GCHW.device)[:, None], torch.arange(side, device=pixels_GCHW.device)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    index = row.clamp(0, side - 1) * side + column.clamp(0, side - 1)
    moved = pixels_GCHW.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, 3, -1))
    return moved.view_as(pixels_GCHW) * inside[:, None]


def _cutout(pixels_BCHW: Tensor, box_B4: Tensor) -> Tensor:
    device = pixels_BCHW.device
    left, top, right, bottom = box_B4.to(device, non_blocking=True)[:, :, None, None, None].unbind(1)
    height, width = pixels_BCHW.shape[2:]
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return torch.where(inside, _cutout_color(device), pixels_BCHW)


@lru_cache(maxsize=8)
def _cutout_color(device: torch.device) -> Tensor:
    """Colour of the cutout, (3, 1, 1); made once, since making it waits for the device."""
    return torch.tensor(CUTOUT_COLOR, dtype=torch.uint8, device=device).view(3, 1, 1)
