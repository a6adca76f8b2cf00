"""CUB-200-2011 (Wah et al., 2011): 5,994 train and 5,794 test images of 200 bird species, 224 x 224 out of 256 x 256.

A subset in the same layout works too, and is labelled as such: `cub200[50 classes]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from benchmark.datasets.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    DataSet,
    Gigabytes,
    Known,
    NumWorkers,
    registry,
)
from benchmark.datasets.download import Archive
from benchmark.datasets.image_files import digest_of_splits, images_from_files
from benchmark.errors import UserError, shown

NUM_CLASSES, NUM_IMAGES = 200, 11788
ARCHIVE = Archive(
    data_set="cub200",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
    md5="97eceeb196236b17998738112f37df78",
    filename="CUB_200_2011.tgz",
    folder="CUB_200_2011",
    size=1_150_585_339,
)


@registry.register("cub200")
def cub200(
    root: Path,
    download: bool = False,
    cache: str | Path | None = None,
    memory_gb: Gigabytes | None = None,
    num_workers: NumWorkers | None = None,
) -> Annotated[DataSet, Known(224, NUM_CLASSES)]:
    """Load CUB-200-2011 from `<root>/CUB_200_2011`, `<root>/cub200/CUB_200_2011` or its archive under `root`.

    Images are decoded once into the folder `cache` (default `<root>/cache`) when they fit into `memory_gb`.

    Raises:
        UserError: when the data is missing or incomplete, with where to get it or the file and line at fault.
    """
    nested = root / "cub200" / ARCHIVE.folder
    folder = nested if nested.is_dir() else ARCHIVE.unpacked(root, download)
    classes, splits = _read(folder)
    train, test = (
        images_from_files(paths, targets, 256, Path(cache or root / "cache"), f"cub200-{split}", memory_gb, num_workers)
        for split, (paths, targets) in splits.items()
    )
    name = _name(len(classes), len(train) + len(test))
    return DataSet(
        name=name,
        classes=classes,
        image_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=train,
        test=test,
        augmentation=Augmentation(padding=0, flip=True),
        digest=digest_of_splits(train, test),
        source=f"{folder}, official split",
        is_part=name != ARCHIVE.data_set,
    )


def _name(num_classes: int, num_images: int) -> str:
    if num_classes != NUM_CLASSES:
        return f"cub200[{num_classes} classes]"
    return "cub200" if num_images == NUM_IMAGES else f"cub200[{num_images} images]"


def _read(folder: Path) -> tuple[tuple[str, ...], dict[str, tuple[list[Path], Tensor]]]:
    """Read the names of the classes that have images, and paths and contiguous targets of train and test."""
    classes, images, labels, in_train = (
        _Table.read(folder / f"{name}.txt") for name in ("classes", "images", "image_class_labels", "train_test_split")
    )
    for table in (labels, in_train):
        if unknown := images.rows.keys() - table.rows.keys():
            raise images.fault(min(unknown), f"image {min(unknown)} is not in {table.path.name}")
        if unknown := table.rows.keys() - images.rows.keys():
            raise table.fault(min(unknown), f"image {min(unknown)} is not in {images.path.name}")
    for image, (label, _) in labels.rows.items():
        if not _is_id(label) or int(label) not in classes.rows:
            raise labels.fault(image, f"class {label[:40]} is not in {classes.path.name}")
    for image, (flag, _) in in_train.rows.items():
        if flag not in ("0", "1"):
            raise in_train.fault(image, f"{shown(flag)} is neither 0 (test) nor 1 (train)")
    present = sorted({int(label) for label, _ in labels.rows.values()})
    index = {label: number for number, label in enumerate(present)}
    splits = {}
    for split, flag in (("train", "1"), ("test", "0")):
        members = [image for image in images.rows if in_train.rows[image][0] == flag]
        if not members:
            raise UserError(f"{in_train.path} has no {split} image: unpack the data again")
        paths = [folder / "images" / images.rows[image][0] for image in members]
        splits[split] = paths, torch.tensor([index[int(labels.rows[image][0])] for image in members])
    return tuple(classes.rows[label][0] for label in present), splits


def _is_id(text: str) -> bool:
    """Whether a text is a whole number that Python converts: not a superscript, nor thousands of digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


@dataclass(frozen=True)
class _Table:
    """One of the official text files: an id and a value on every line."""

    path: Path
    #: id -> (value, line number)
    rows: dict[int, tuple[str, int]]

    @classmethod
    def read(cls, path: Path) -> _Table:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path} ({error}): unpack the data again") from error
        table = cls(path, {})
        for number, line in enumerate(lines, start=1):
            key, _, value = line.strip().partition(" ")
            if not _is_id(key) or not value:
                raise UserError(f"{path}, line {number}: {shown(line)} is not an id and a value; unpack the data again")
            if int(key) in table.rows:
                raise UserError(f"{path}, line {number}: id {key} was on line {table.rows[int(key)][1]} already")
            table.rows[int(key)] = value, number
        return table

    def fault(self, key: int, why: str) -> UserError:
        return UserError(f"{self.path}, line {self.rows[key][1]}: {why}; unpack the data again")
