"""ImageNet (ILSVRC 2012; Russakovsky et al., IJCV 2015): 1,281,167 train and 50,000 test images of 1,000 classes.

The layout is torchvision's: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or the archives as they are downloaded.
Images are decoded from their files in every epoch; nothing is cached. Some of the classes, or of the images, work too,
and are labelled as such: `imagenet[20 classes]`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets import imagenet_archives, resized_crops
from benchmark.datasets.base import IMAGENET_MEAN, IMAGENET_STD, Augmentation, DataSet, Known, NumWorkers, registry
from benchmark.datasets.folder import SUFFIXES
from benchmark.datasets.image_files import DECODER
from benchmark.datasets.resized_crops import CropFiles
from benchmark.errors import UserError, shown

NUM_CLASSES, NUM_IMAGES = 1000, {"train": 1_281_167, "val": 50_000}
FIRST, LAST = "n01440764", "n15075141"
_ENDINGS = tuple(sorted(SUFFIXES))
_WNID = re.compile(r"n\d{8}", re.ASCII)


@registry.register("imagenet")
def imagenet(
    root: Path, render: bool = False, num_workers: NumWorkers | None = None
) -> Annotated[DataSet, Known(224, NUM_CLASSES)]:
    """Load ImageNet from `<root>/imagenet`, or from `root` itself; with `render`, archives there are unpacked first.

    Raises:
        UserError: when the images are missing or packed, for a tree of another layout, empty classes, classes that
            only one split has, a single class, and 1,000 classes that are not those of ILSVRC 2012.
    """
    folder = root / "imagenet" if (root / "imagenet").is_dir() else root
    for split in NUM_IMAGES:
        if not (folder / split).is_dir():
            imagenet_archives.provide(folder, split, render)
    classes, held_out = (_classes(folder, split) for split in NUM_IMAGES)
    if only := sorted(set(classes) ^ set(held_out)):
        sides = ", ".join(f"{wnid} (only in {'train' if wnid in classes else 'val'})" for wnid in only[:3])
        more = f", and {len(only) - 3} more" if len(only) > 3 else ""
        raise UserError(f"{folder}: train and val have different classes: {sides}{more}; complete or delete them")
    if len(classes) < 2:
        raise UserError(f"{folder} has one class only, {classes[0]}: there is nothing to tell apart")
    if len(classes) == NUM_CLASSES and (classes[0], classes[-1]) != (FIRST, LAST):
        raise UserError(
            f"{folder} has 1,000 classes from {classes[0]} to {classes[-1]}, and those of ILSVRC 2012 go from {FIRST}"
            f" to {LAST}: other images are the data set `folder`"
        )
    total = hashlib.sha256(f"decoder {DECODER}, resized crops {resized_crops.VERSION}\n".encode())
    train, test = (
        CropFiles(folder / split, *_listed(folder / split, classes, total), 224, num_workers) for split in NUM_IMAGES
    )
    name = _name(len(classes), len(train), len(test))
    return DataSet(
        name=name,
        classes=tuple(classes),
        image_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=train,
        test=test,
        augmentation=Augmentation(),
        digest=total.hexdigest(),
        source=f"{folder}, val is the test split",
        is_part=name != "imagenet",
    )


def _name(num_classes: int, num_train: int, num_test: int) -> str:
    if num_classes != NUM_CLASSES:
        return f"imagenet[{num_classes} classes]"
    whole = {"train": num_train, "val": num_test} == NUM_IMAGES
    return "imagenet" if whole else f"imagenet[{num_train + num_test} images]"


def _classes(folder: Path, split: str) -> list[str]:
    """List the WordNet ids of a split's classes, sorted: the order of torchvision's outputs."""
    place, way_out = folder / split, imagenet_archives.way_out(folder, split)
    try:
        with os.scandir(place) as entries:
            found = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}): make it readable") from error
    classes = sorted(name for name, is_folder in found.items() if is_folder)
    if packed := sum(name.endswith(".tar") for name in found):
        raise UserError(f"{place} has {packed:,} archives of classes, which are not unpacked: delete it, and {way_out}")
    if not classes:
        images = sum(Path(name).suffix.lower() in SUFFIXES for name in found)
        raise UserError(
            f"{place} has {images:,} images and no folder of a class: move them into folders <wnid>/, or delete it,"
            f" and {way_out}"
        )
    if other := [name for name in classes if not _WNID.fullmatch(name)]:
        raise UserError(
            f"{place}: the folder {shown(other[0])} is no class of ImageNet, whose names are WordNet ids like {FIRST}:"
            " take it out; other images are the data set `folder`"
        )
    return classes


def _listed(place: Path, classes: list[str], total: hashlib._Hash) -> tuple[NDArray[np.bytes_], Tensor]:
    """List the images' paths below a split, sorted, and their targets; names and sizes go into the digest `total`."""
    names: list[bytes] = []
    counts = []
    for wnid in classes:
        try:
            with os.scandir(place / wnid) as entries:
                found = sorted(
                    (entry.name, entry.stat().st_size)
                    for entry in entries
                    if entry.name.lower().endswith(_ENDINGS) and not entry.name.startswith(".")
                )
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror}): make it readable") from error
        if empty := next((name for name, size in found if not size), None):
            raise UserError(f"{place / wnid / empty} is empty: replace this file from the source of the data set")
        if not found:
            raise UserError(f"{place / wnid} has no image: unpack this class again, or delete it in train and val")
        total.update(b"".join(os.fsencode(f"{place.name}/{wnid}/{name}\t{size}\n") for name, size in found))
        names.extend(os.fsencode(f"{wnid}/{name}") for name, _ in found)
        counts.append(len(found))
    return np.array(names), torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
