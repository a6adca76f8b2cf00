"""`digits`: real handwritten digits among clutter, embedded, so that the whole suite runs anywhere without a download.

scikit-learn carries 1,797 real handwritten 8 x 8 digits (Alpaydin and Kaynak, 1998, UCI). Each is placed on a 16 x 16
canvas among pieces of other digits, strokes and noise. The renders are a function of a fixed seed. No source digit is
shared by train and test: distractor pieces come from the same side of the split too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.datasets.base import Augmentation, DataSet, Known, MemoryImages, digest_of, registry
from benchmark.datasets.mapped import Content, mapped

SIDE = 16
NUM_TRAIN, NUM_TEST = 4000, 2000
NUM_SOURCE_TRAIN = 1200
#: chosen so that a resnet8x4 teacher reaches 88 to 97% and a half-width resnet8 alone well below it
NUM_PIECES = 5
PIECE_CONTRAST = (0.3, 0.75)
DIGIT_CONTRAST = (0.55, 1.0)
NOISE_STD = 0.1


@registry.register("digits")
def digits(root: Path, cache: str | Path | None = None, render: bool = False) -> Annotated[DataSet, Known(SIDE, 10)]:
    """Load the embedded data set: 4,000 train and 2,000 test renders, 10 classes, 16 x 16. `root` is not used.

    With `render`, the images are rendered once into the folder `cache`, from where every process maps them. Without
    it nothing is written: images that are not in the cache are rendered in memory.
    """
    train, test = (_rendered(split, cache, render) for split in ("train", "test"))
    return DataSet(
        name="digits",
        classes=tuple(map(str, range(10))),
        image_size=SIDE,
        mean=(0.3, 0.3, 0.3),
        std=(0.28, 0.28, 0.28),
        train=train,
        test=test,
        augmentation=Augmentation(padding=2, flip=False),
        digest=digest_of(train.pixels_NCHW, train.targets, test.pixels_NCHW, test.targets),
        source="scikit-learn's handwritten digits, rendered among clutter from a fixed seed",
        embedded=True,
    )


def _rendered(split: str, cache: str | Path | None, may_write: bool) -> MemoryImages:
    if cache is None:
        return _render_split(split)
    # the renders are a function of this file: an edit of it renders them again
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    path = Path(cache) / f"digits-{split}-{version}.npy"
    if not may_write and not path.exists():
        return _render_split(split)

    def content() -> Content:
        images = _render_split(split)
        pixels_NCHW = images.pixels_NCHW.numpy()
        about = {"targets": images.targets.tolist()}
        return Content(pixels_NCHW.shape, lambda: [pixels_NCHW], about, f"rendering the {split} images of digits once")

    pixels_NCHW, about = mapped(path, version, content, {"targets": int})
    return MemoryImages(pixels_NCHW, torch.tensor(about["targets"]))


def _render_split(split: str) -> MemoryImages:
    from sklearn.datasets import load_digits  # it takes seconds to import, and stored renders do not need it

    source = load_digits()
    glyphs = (source.images / 16.0).astype(np.float32)
    # RandomState, not Generator: numpy keeps its streams frozen, so the renders are the same in every version
    order = np.random.RandomState(20240617).permutation(len(glyphs))
    if split == "train":
        return _render(glyphs, source.target, order[:NUM_SOURCE_TRAIN], NUM_TRAIN, seed=1)
    return _render(glyphs, source.target, order[NUM_SOURCE_TRAIN:], NUM_TEST, seed=2)


def _render(
    glyphs: NDArray[np.float32], labels: NDArray[np.int64], members: NDArray[np.int64], count: int, seed: int
) -> MemoryImages:
    """Render `count` canvases whose digits and distractor pieces all come from `members`."""
    rng = np.random.RandomState(seed)
    centers = rng.permutation(np.resize(members, count))
    canvases = np.zeros((count, SIDE, SIDE), np.float32)
    for canvas, center in zip(canvases, centers, strict=True):
        for _ in range(NUM_PIECES):
            # what `choice` draws, which takes several times as long
            glyph = glyphs[members[rng.randint(len(members))]]
            _paste(canvas, _piece(glyph, rng), rng, PIECE_CONTRAST, low=-2, high=SIDE - 2)
        _paste(canvas, glyphs[center], rng, DIGIT_CONTRAST, low=2, high=SIDE - 8 - 2)
    canvases += rng.normal(0.0, NOISE_STD, canvases.shape).astype(np.float32)
    pixels = torch.from_numpy((canvases.clip(0, 1) * 255).round().astype(np.uint8))
    return MemoryImages(
        pixels[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels[centers].astype(np.int64))
    )


def _piece(glyph: NDArray[np.float32], rng: np.random.RandomState) -> NDArray[np.float32]:
    """Cut a random 3 to 5 pixel square out of another digit."""
    side = rng.randint(3, 6)
    top, left = rng.randint(0, 8 - side + 1), rng.randint(0, 8 - side + 1)
    return glyph[top : top + side, left : left + side]


def _paste(
    canvas: NDArray[np.float32],
    patch: NDArray[np.float32],
    rng: np.random.RandomState,
    contrast: tuple[float, float],
    low: int,
    high: int,
) -> None:
    """Draw the patch at a random place, lighter pixels winning, clipped at the canvas' border."""
    top, left = rng.randint(low, high + 1), rng.randint(low, high + 1)
    value = patch * rng.uniform(*contrast)
    height, width = value.shape
    rows = slice(max(top, 0), min(top + height, SIDE))
    columns = slice(max(left, 0), min(left + width, SIDE))
    shown = value[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    np.maximum(canvas[rows, columns], shown, out=canvas[rows, columns])
