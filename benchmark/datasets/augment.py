"""Train and test views of whole uint8 batches, on the device that holds them.

Every random number is drawn on the CPU from a stream named by (seed, epoch, view), for the epoch at once: a view of an
image depends on nothing else, neither on the device nor on the runs that train with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.datasets.base import Augmentation
from benchmark.randomness import generator

#: largest side, in pixels, of the crops that a CPU cuts by one gather; larger crops are faster copied one by one
_GATHERED_SIDE = 64


@dataclass(frozen=True)
class Crops:
    """Crop offsets and flips of every image of an epoch, in the epoch's order."""

    top_N: Tensor
    left_N: Tensor
    flip_N: Tensor

    def stacked(self) -> Tensor:
        """Stack top, left and flip: (3, N) int64."""
        return torch.stack([self.top_N, self.left_N, self.flip_N.long()])


def draw_crops(
    augmentation: Augmentation, count: int, source: tuple[int, int], side: int, seed: int, epoch: int, view: str
) -> Crops:
    """Draw the crops of one epoch and view: offsets uniform over all that fit the padded source, flips with p = 1/2."""
    rng = generator(seed, "crop", epoch, view)
    height, width = source
    spare = 2 * augmentation.padding
    top_N = torch.randint(0, height + spare - side + 1, (count,), generator=rng)
    left_N = torch.randint(0, width + spare - side + 1, (count,), generator=rng)
    flip_N = torch.rand(count, generator=rng) < 0.5 if augmentation.flip else torch.zeros(count, dtype=torch.bool)
    return Crops(top_N, left_N, flip_N)


def crop_and_flip(pixels_BCHW: Tensor, crops_3B: Tensor, padding: int, side: int) -> Tensor:
    """Cut the (B, C, S, S) uint8 crops of a batch; `crops_3B` holds top, left and flip, on the pixels' device."""
    if padding:
        pixels_BCHW = F.pad(pixels_BCHW, (padding, padding, padding, padding))
    if pixels_BCHW.device.type == "cpu" and side > _GATHERED_SIDE:
        return _copied(pixels_BCHW, crops_3B, side)
    top_B, left_B, flip_B = crops_3B
    windows = pixels_BCHW.unfold(2, side, 1).unfold(3, side, 1)
    cropped = windows[torch.arange(len(pixels_BCHW), device=pixels_BCHW.device), :, top_B, left_B]
    return torch.where(flip_B.bool()[:, None, None, None], cropped.flip(3), cropped)


def _copied(pixels_BCHW: Tensor, crops_3B: Tensor, side: int) -> Tensor:
    """Cut the same crops image by image."""
    cropped = pixels_BCHW.new_empty(*pixels_BCHW.shape[:2], side, side)
    for number, (top, left, flip) in enumerate(crops_3B.T.tolist()):
        window = pixels_BCHW[number, :, top : top + side, left : left + side]
        cropped[number] = window.flip(2) if flip else window
    return cropped


def center_crop(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Cut the central (B, C, S, S) part."""
    top, left = (round((extent - side) / 2) for extent in pixels_BCHW.shape[2:])
    return pixels_BCHW[:, :, top : top + side, left : left + side]


class Normalize:
    """Conversion of uint8 pixels to float32 network inputs: (x / 255 - mean) / std per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        mean_C, std_C = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        self._scale_C, self._shift_C = 1 / (255 * std_C), -mean_C / std_C
        #: scale and shift repeated along a row of pixels, by its width
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalize to float32 (B, C, S, S), channels last in memory, as convolutions prefer it."""
        out_BCHW = pixels_BCHW.to(torch.float32, memory_format=torch.channels_last)
        width = out_BCHW.shape[3]
        if width not in self._rows:
            self._rows[width] = self._scale_C.repeat(width), self._shift_C.repeat(width)
        scale, shift = self._rows[width]
        # along whole rows: an operator over three channels at a time is slow
        out_BCHW.permute(0, 2, 3, 1).view(-1, len(scale)).mul_(scale).add_(shift)
        return out_BCHW
