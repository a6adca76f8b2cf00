"""Data loading of the released code: torchvision transforms per PIL image, in loader processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmark.datasets.base import DataSet, MemoryImages

#: loader processes of the released configurations, for training and for testing on CIFAR-100
NUM_WORKERS, NUM_TEST_WORKERS = 2, 1


class PilImages(Dataset[Any]):
    """Pixels held as one (N, H, W, 3) array, handed out one PIL image at a time as torchvision's CIFAR-100 does."""

    def __init__(self, images: MemoryImages, transform: Any, with_index: bool) -> None:
        self.pixels_NHWC: NDArray[np.uint8] = np.ascontiguousarray(images.pixels_NCHW.permute(0, 2, 3, 1).numpy())
        self.targets = images.targets.tolist()
        self.transform, self.with_index = transform, with_index

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        image, target = self.transform(Image.fromarray(self.pixels_NHWC[index])), self.targets[index]
        return (image, target, index) if self.with_index else (image, target)


def train_transform(data: DataSet, resize: int | None = None) -> Any:
    """Compose resize (for files of any size), random crop, flip, float and normalise, for one PIL image."""
    from torchvision import transforms  # slow to import

    padding = data.augmentation.padding
    steps = [transforms.Resize((resize, resize))] if resize else []
    steps.append(transforms.RandomCrop(data.image_size, padding=padding or None))
    if data.augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])


def train_loader(data: DataSet, batch_size: int, num_workers: int = NUM_WORKERS) -> DataLoader[Any]:
    """Make the loader of the training images; batches are (images, targets, indices)."""
    assert isinstance(data.train, MemoryImages)
    images = PilImages(data.train, train_transform(data), with_index=True)
    return DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=num_workers)


def eval_loader(data: DataSet, batch_size: int = 64) -> DataLoader[Any]:
    """Make the loader of the test images; batches are (images, targets)."""
    from torchvision import transforms

    assert isinstance(data.test, MemoryImages)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    images = PilImages(data.test, transform, with_index=False)
    return DataLoader(images, batch_size=batch_size, shuffle=False, num_workers=NUM_TEST_WORKERS)


def to_device(loader: DataLoader[Any], device: torch.device) -> None:
    """Iterate over an epoch of a loader of (images, targets, ...) and send each batch to the device."""
    for image_BCHW, target_B, *_ in loader:
        image_BCHW.to(device, non_blocking=True)
        target_B.to(device, non_blocking=True)


def file_loader(folder: str, data: DataSet, resize: int, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """Make the loader of a folder of image files, one subfolder per class."""
    from torchvision.datasets import ImageFolder

    images = ImageFolder(folder, transform=train_transform(data, resize))
    return DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=num_workers)
