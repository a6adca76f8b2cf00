"""A small tree like ImageNet's, of JPEGs of real sizes: `python -m tests.imagenet FOLDER` writes 20 classes.

Sizes and aspects vary around 500 x 375. Among the images are one in grey, one in CMYK, one PNG that is called .JPEG,
and one with an orientation in EXIF, which trainings on ImageNet do not follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: the usual side of an image of ImageNet, and the share of it that a made image has at most less or more
WIDTH, HEIGHT, SPREAD = 500, 375, 0.3
WNIDS = tuple(f"n{1440764 + 7 * number:08}" for number in range(20))


def picture(rng: np.random.RandomState, scale: float = 1.0) -> Image.Image:
    """Draw smooth colours with some grain, which decode about as fast as a photograph."""
    width, height = (round(scale * side * (1 + SPREAD * (2 * rng.rand() - 1))) for side in (WIDTH, HEIGHT))
    smooth = Image.fromarray(rng.randint(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
    grain = rng.randint(-20, 21, (height, width, 1))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def write_tree(
    folder: Path, wnids: Sequence[str] = WNIDS, per_class: int = 20, scale: float = 1.0, val_per_class: int = 5
) -> Path:
    """Write `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, with odd images in the first class; return the folder."""
    rng = np.random.RandomState(0)
    number = 0
    for split, count in (("train", per_class), ("val", val_per_class)):
        for wnid in wnids:
            (folder / split / wnid).mkdir(parents=True)
            for index in range(count):
                number += 1
                name = f"{wnid}_{index + 1}.JPEG" if split == "train" else f"ILSVRC2012_val_{number:08}.JPEG"
                write_image(folder / split / wnid / name, rng, index if wnid == wnids[0] else None, scale)
    return folder


def write_image(path: Path, rng: np.random.RandomState, odd: int | None, scale: float) -> None:
    """Write one image; `odd` counts those of the first class."""
    image, exif, kind = picture(rng, scale), Image.Exif(), "JPEG"
    if odd == 0:
        image = image.convert("L")
    elif odd == 1:
        image = image.convert("CMYK")
    elif odd == 2:
        kind = "PNG"
    elif odd == 3:
        exif[0x0112] = 6
    image.save(path, kind, quality=90, exif=exif)


def main() -> None:
    """Write the tree that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", type=int, default=20)
    given = parser.parse_args()
    write_tree(given.folder, per_class=given.per_class)


if __name__ == "__main__":
    main()
