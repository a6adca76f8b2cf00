"""`folder`: any tree `<path>/train/<class>/*.jpg` and `<path>/test/<class>/*.jpg` (or `val`).

What becomes of deep, grey, transparent, turned or animated images is a table in `benchmark/datasets/image_files.py`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
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
from benchmark.datasets.image_files import digest_of_splits, images_from_files, shared
from benchmark.errors import MAX_NAME_BYTES, UserError, shown, unprintable
from benchmark.files import resolved, say
from benchmark.machine import is_main

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})
#: files that file managers leave behind
DEBRIS = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
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
        UserError: for a tree of another layout, empty classes, classes that only one split has, a single class, names
            that cannot be shown, links in a circle, and a test split of training images.
    """
    if path is None:
        raise UserError(f"data set 'folder' needs the folder of its images: pass `--set data.path=<path>`; {LAYOUT}")
    tree = _tree(root, path)
    train_split = tree / "train"
    test_split = next((tree / name for name in ("test", "val") if (tree / name).is_dir()), tree / "test")
    classes, held_out = _classes(train_split), _classes(test_split)
    if train_split.samefile(test_split):
        raise UserError(f"{tree}: train and {test_split.name} are the same folder: a test on what was trained is none")
    if classes != held_out:
        only = sorted(set(classes) ^ set(held_out))
        sides = [f"{name} (only in {'train' if name in classes else test_split.name})" for name in only]
        raise UserError(f"{tree}: train and {test_split.name} have different classes: {', '.join(sides)}")
    if len(classes) < 2:
        raise UserError(f"{tree} has one class only, {classes[0]}: there is nothing to tell apart; {LAYOUT}")
    listed = {part: _listed(part, classes) for part in (train_split, test_split)}
    leaked = _leaked(tree, test_split, listed)
    side, place = round(image_size * 256 / 224), Path(cache or root / "cache")
    train, test = (
        images_from_files(*files, side, place, f"{tree.name}-{part.name}", memory_gb, num_workers)
        for part, files in listed.items()
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
        source="; ".join([str(tree), *leaked]),
    )


def _tree(root: Path, path: str | Path) -> Path:
    """Resolve the folder of the images, whose name becomes a part of file names and of the data set's."""
    try:
        tree = resolved(root / path)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name that is too long, a NUL
        raise UserError(f"data.path: {shown(str(path))} cannot be a folder ({error}); {LAYOUT}") from error
    fault = unprintable(str(tree))
    if not tree.name or len(os.fsencode(tree.name)) > MAX_NAME_BYTES:
        fault = f"must have 1 to {MAX_NAME_BYTES} bytes"
    if fault:
        raise UserError(f"data.path: the name of the folder {shown(str(tree))} {fault}: rename it")
    return tree


def _classes(split: Path) -> list[str]:
    """List the names of the classes; each can stand in tables, logs and files."""
    try:
        if not split.is_dir():
            raise UserError(f"{split} is missing: {LAYOUT}")
        classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{split} cannot be read ({error.strerror}): {LAYOUT}") from error
    if not classes:
        raise UserError(f"{split} has no folder of a class: {LAYOUT}")
    for name in classes:
        if fault := unprintable(name):
            raise UserError(f"{split}: the name of the class folder {shown(name)} {fault}: rename it")
    return classes


def _listed(split: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    """List the paths, sorted within every class, and their targets; say which files are left out."""
    left_out: Counter[str] = Counter()
    members = [sorted(_images(split / name, left_out)) for name in classes]
    if empty := [name for name, paths in zip(classes, members, strict=True) if not paths]:
        raise UserError(f"{split}: no image ({', '.join(sorted(SUFFIXES))}) in {', '.join(empty)}")
    if left_out and is_main():
        endings = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in sorted(left_out.items()))
        say(f"{split}: left out, since their ending is no image's: {endings}")
    targets_N = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in members]))
    return [path for paths in members for path in paths], targets_N


def _images(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Find the images below a class's folder, through links too; count other files by their ending.

    Raises:
        UserError: for a folder that cannot be read, and for one that is reached twice: a link leads back to it.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): make it readable") from error

    seen: dict[str, str] = {}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            raise UserError(f"{place} is {seen[real]} again, by a link: its images would count twice; delete the link")
        seen[real] = place
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            ending = Path(name).suffix.lower()
            if name.startswith(".") or name.lower() in DEBRIS:
                continue
            if ending in SUFFIXES:
                yield Path(place, name)
            else:
                left_out[ending] += 1


def _leaked(tree: Path, test_split: Path, listed: dict[Path, tuple[list[Path], Tensor]]) -> list[str]:
    """Describe the test images that are training images too, byte for byte. Raises UserError when all of them are."""
    (train_paths, _), (test_paths, _) = listed.values()
    same = shared(train_paths, test_paths)
    if not same:
        return []
    words = f"{len(same):,} of {len(test_paths):,} {test_split.name} images are in train too, byte for byte"
    example = f"{same[0][1].relative_to(tree)} is {same[0][0].relative_to(tree)}"
    if len(same) == len(test_paths):
        raise UserError(f"{tree}: {words} ({example}): a test on what was trained is none")
    if is_main():
        say(f"WARNING: {tree}: {words} ({example}): accuracies are flattered")
    return [words]
