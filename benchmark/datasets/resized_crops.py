"""Images of many sizes in files: random resized crops, and the test view, made by the processes that decode.

The train view is a part of the image of random area and aspect, resized to the network's side and flipped half of the
time (Szegedy et al., CVPR 2015; the RandomResizedCrop of torchvision). The test view is the image at 256/224 of that
side, by its shorter side, and the centre of it. Both look at images as they are stored, as the published trainings do:
an orientation in EXIF is ignored.

Shape letters: N images of an epoch, B batch, M random numbers of a crop, S side of the image a network sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.datasets.image_files import decoded_by, faults_named, read
from benchmark.errors import UserError
from benchmark.process import available_cores
from benchmark.randomness import generator

#: raise it whenever crops or test views change: it is part of the digest
VERSION = 1
#: share of the image's area, and width by height
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
#: parts are drawn until one fits into the image; after the last, the centre is taken
ATTEMPTS = 10
#: images that a process decodes at once: few, so that the first batch is there soon and little waits in memory
PIECE = 32


def draw(count: int, seed: int, epoch: int, view: str) -> Tensor:
    """Draw what decides the crops of an epoch and view, in the epoch's order, before the images' sizes are known.

    Returns (N, M) numbers in [0, 1): flip, top, left, then an area and an aspect for each attempt.
    """
    return torch.rand(count, 3 + 2 * ATTEMPTS, generator=generator(seed, "resized crop", epoch, view))


def box(numbers_M: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """Find the part of an image that the numbers choose: top, left, height and width, in pixels."""
    _, at_top, at_left, *pairs = numbers_M
    for at_area, at_aspect in zip(pairs[::2], pairs[1::2], strict=True):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * at_area)
        aspect = math.exp(math.log(ASPECT[0]) + (math.log(ASPECT[1]) - math.log(ASPECT[0])) * at_aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(at_top * (height - h + 1)), int(at_left * (width - w + 1)), h, w
    h, w = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def crop(pixels_HWC: NDArray[np.uint8], numbers_M: Sequence[float], side: int) -> Tensor:
    """Cut the (3, S, S) uint8 train view of an image, resized bilinearly with antialiasing."""
    from torchvision.transforms.v2.functional import resize  # slow to import

    top, left, h, w = box(numbers_M, *pixels_HWC.shape[:2])
    part = torch.from_numpy(pixels_HWC[top : top + h, left : left + w]).permute(2, 0, 1)
    view: Tensor = resize(part, [side, side], antialias=True)
    return view.flip(2) if numbers_M[0] < 0.5 else view


def centre(pixels_HWC: NDArray[np.uint8], side: int) -> Tensor:
    """Cut the (3, S, S) uint8 test view of an image."""
    from torchvision.transforms.v2.functional import center_crop, resize  # slow to import

    whole = resize(torch.from_numpy(pixels_HWC).permute(2, 0, 1), [round(side * 256 / 224)], antialias=True)
    view: Tensor = center_crop(whole, [side, side])
    return view


class CropFiles:
    """Images below a folder, decoded on every request by `num_workers` processes (0: this one; None: one per core)."""

    def __init__(
        self, folder: Path, names: NDArray[np.bytes_], targets: Tensor, side: int, num_workers: int | None = None
    ) -> None:
        """Take the paths relative to `folder`: one array, since a million str objects are copied into every process."""
        self.targets = targets
        self._num_workers = available_cores() if num_workers is None else num_workers
        self._files = _Files(folder, names, side)

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        """Yield the (B, 3, S, S) uint8 test view on the device for every index tensor of `order`.

        Raises UserError that names a file which cannot be decoded.
        """
        for seen in self._seen(order, [{}] * len(order), device):
            yield seen[""]

    def cut(
        self, order: list[Tensor], crops: Sequence[Mapping[str, Tensor]], device: torch.device
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the (B, 3, S, S) uint8 train views on the device, by view; every image is decoded once for all views.

        `crops` has the (B, M) numbers of every batch by view. Raises UserError that names a file which cannot be
        decoded.
        """
        return self._seen(order, crops, device)

    def _seen(
        self, order: list[Tensor], crops: Sequence[Mapping[str, Tensor]], device: torch.device
    ) -> Iterator[dict[str, Tensor]]:
        pieces: list[Any] = [
            (index_B[first : first + PIECE].numpy(), {view: x[first : first + PIECE].numpy() for view, x in of.items()})
            for index_B, of in zip(order, crops, strict=True)
            for first in range(0, max(1, len(index_B)), PIECE)  # a rank's share may be empty
        ]
        made = decoded_by(self._files, pieces, self._num_workers, device)
        for index_B in order:
            found = [
                {view: x.to(device, non_blocking=True) for view, x in piece.items()}
                for piece in islice(made, len(range(0, max(1, len(index_B)), PIECE)))
            ]
            yield {view: torch.cat([piece[view] for piece in found]) for view in found[0]}


class _Files(Dataset[Any]):
    """Pieces of batches, by view; an error is returned as its message, which a worker's traceback would bury."""

    def __init__(self, folder: Path, names: NDArray[np.bytes_], side: int) -> None:
        self._folder, self._names, self._side = str(folder), names, side

    def __getitems__(self, piece: tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]) -> dict[str, Tensor] | str:
        index_B, crops = piece
        seen: dict[str, list[Tensor]] = {view: [] for view in crops or ("",)}
        for place, index in enumerate(index_B):
            path = self._folder + "/" + os.fsdecode(self._names[index])
            try:
                with faults_named(path):
                    pixels_HWC = read(path, upright=False)
                    for view, views in seen.items():
                        numbers = crops[view][place].tolist() if crops else None
                        views.append(
                            centre(pixels_HWC, self._side) if numbers is None else crop(pixels_HWC, numbers, self._side)
                        )
            except UserError as error:
                return str(error)
        none = torch.empty(0, 3, self._side, self._side, dtype=torch.uint8)
        return {view: torch.stack(views) if views else none for view, views in seen.items()}
