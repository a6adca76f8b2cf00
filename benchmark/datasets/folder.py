"""`folder`: any tree `<path>/train/<class>/*.jpg` and `<path>/test/<class>/*.jpg` (or `val`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.datasets.base import (
    CHOOSES_IMAGES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    DataSet,
    Gigabytes,
    NumWorkers,
    registry,
)
from benchmark.datasets.image_files import digest_of_splits, images_from_files
from benchmark.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
LAYOUT = "expected are <path>/train/<class>/*.jpg and <path>/test/<class>/*.jpg (or val)"


@registry.register("folder")
def folder(
    root: Path,
    path: Annotated[str | Path | None, CHOOSES_IMAGES] = None,
    image_size: Annotated[int, Field(ge=8, le=4096)] = 224,
    cache: str | Path | None = None,
    memory_gb: Gigabytes | None = None,
    num_workers: NumWorkers | None = None,
) -> DataSet:
    """Load the images under `path` (relative to `root`), e.g. `folder[birds]`: decoded at 256/224 of `image_size`.

    Images are decoded once into the folder `cache` (default `<root>/cache`) when they fit into `memory_gb`.

    Raises:
        UserError: for a tree of another layout, empty classes, and classes that only one split has.
    """
    if path is None:
        raise UserError(f"data set 'folder' needs the folder of its images: pass `--set data.path=<path>`; {LAYOUT}")
    tree = (root / path).resolve()
    test_split = next((tree / name for name in ("test", "val") if (tree / name).is_dir()), tree / "test")
    classes, held_out = _classes(tree / "train"), _classes(test_split)
    if classes != held_out:
        only = sorted(set(classes) ^ set(held_out))
        sides = [f"{name} (only in {'train' if name in classes else test_split.name})" for name in only]
        raise UserError(f"{tree}: train and {test_split.name} have different classes: {', '.join(sides)}")
    side, place = round(image_size * 256 / 224), Path(cache or root / "cache")
    train, test = (
        images_from_files(*_listed(part, classes), side, place, f"{tree.name}-{part.name}", memory_gb, num_workers)
        for part in (tree / "train", test_split)
    )
    return DataSet(
        name=f"folder[{tree.name}]",
        classes=tuple(classes),
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=train,
        test=test,
        augmentation=Augmentation(padding=0, flip=True),
        digest=digest_of_splits(train, test),
        source=str(tree),
    )


def _classes(split: Path) -> list[str]:
    if not split.is_dir():
        raise UserError(f"{split} is missing: {LAYOUT}")
    classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{split} has no folder of a class: {LAYOUT}")
    return classes


def _listed(split: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    """List the paths, sorted within every class, and their targets."""
    members = [
        sorted(path for path in (split / name).rglob("*") if path.suffix.lower() in SUFFIXES) for name in classes
    ]
    if empty := [name for name, paths in zip(classes, members, strict=True) if not paths]:
        raise UserError(f"{split}: no image ({', '.join(sorted(SUFFIXES))}) in {', '.join(empty)}")
    targets_N = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in members]))
    return [path for paths in members for path in paths], targets_N
