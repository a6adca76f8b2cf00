"""CIFAR-100 (Krizhevsky, 2009): 50,000 train and 10,000 test images, 100 classes, 32 x 32."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from benchmark.datasets.base import Augmentation, DataSet, Known, MemoryImages, digest_of, registry
from benchmark.datasets.download import Archive, check
from benchmark.datasets.mapped import Content, mapped

ARCHIVE = Archive(
    data_set="cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    filename="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    size=169_001_437,
)
#: md5 of every official file; they are pickles, so none is loaded before it is checked
MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


@registry.register("cifar100")
def cifar100(root: Path, cache: str | Path | None = None, download: bool = False) -> Annotated[DataSet, Known(32, 100)]:
    """Load CIFAR-100 from `<root>/cifar-100-python`, or from its archive placed under `root`.

    The pickles are read once into the folder `cache` (default: `cache` under `root`), and memory-mapped from there.

    Raises:
        UserError: when the data is missing or a file is not the official one, with where to get it.
    """
    folder = ARCHIVE.unpacked(root, download)
    for name, md5 in MD5.items():
        check(folder / name, md5, f"delete the folder {folder}, then {ARCHIVE.way_out(root)}")
    place = root / "cache" if cache is None else Path(cache)
    classes, train = _split(root, place, "train")
    _, test = _split(root, place, "test")
    return DataSet(
        name="cifar100",
        classes=classes,
        image_size=32,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        train=train,
        test=test,
        augmentation=Augmentation(padding=4, flip=True),
        digest=digest_of(train.pixels_NCHW, train.targets, test.pixels_NCHW, test.targets),
        source="official files, md5 checked",
    )


def _split(root: Path, cache: Path, split: str) -> tuple[tuple[str, ...], MemoryImages]:
    pixels_NCHW, about = mapped(
        cache / f"cifar100-{split}-{MD5[split][:16]}.npy",
        MD5[split],
        lambda: _content(root, split),
        {"classes": str, "targets": int},
    )
    return tuple(about["classes"]), MemoryImages(pixels_NCHW, torch.tensor(about["targets"]))


def _content(root: Path, split: str) -> Content:
    from torchvision.datasets import CIFAR100  # slow to import

    class Checked(CIFAR100):  # type: ignore[misc]
        """torchvision's reader without its own checksums, which do not say which file is damaged."""

        meta = CIFAR100.meta | {"md5": None}

        def _check_integrity(self) -> bool:
            return True

    source: Any = Checked(root, train=split == "train")
    pixels_NCHW = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
    about = {"classes": list(source.classes), "targets": list(map(int, source.targets))}
    return Content(pixels_NCHW.shape, lambda: [pixels_NCHW], about, f"reading the {split} images of CIFAR-100 once")
