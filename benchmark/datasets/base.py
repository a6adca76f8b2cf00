"""The data set interface: uint8 images with targets for train and test, and batches of them.

Shape letters: N images, B batch, C channels, S side of the image a network sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from benchmark.randomness import generator
from benchmark.registry import Registry

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: marks an option that selects a data set's images, `path: Annotated[Path, CHOOSES_IMAGES]`: a command that sets it
#: chooses images as it chooses pairs, which does not change the suite
CHOOSES_IMAGES = "chooses images"


class Known(NamedTuple):
    """What is known of a data set before it is read: `def cub200(...) -> Annotated[DataSet, Known(224, 200)]`.

    With it a plan says which methods cannot run on a pair, and counts what they add. An option `image_size` goes first.
    """

    #: side of the images that networks see, in pixels
    image_size: int | None = None
    #: of the whole data set
    num_classes: int | None = None


#: memory for decoded images, and processes that decode them
Gigabytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NumWorkers = Annotated[int, Field(ge=0, le=1024)]


class Images(Protocol):
    """Images of one split, all decoded to one uint8 size, in memory or in files.

    Of `resized_crops.CropFiles`, whose images differ in size, this is the test view; it cuts train views itself.
    """

    @property
    def targets(self) -> Tensor:
        """Class indices, (N,) int64."""

    def __len__(self) -> int: ...

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) uint8 tensor on the device for every index tensor of `order`."""
        ...


@dataclass(frozen=True)
class MemoryImages:
    """Images held as one uint8 tensor (in memory, memory-mapped, or on the device)."""

    pixels_NCHW: Tensor
    targets: Tensor
    #: sha256 that names the source files, where the pixels were decoded from files
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.pixels_NCHW)

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) uint8 tensor on the device for every index tensor of `order`."""
        for index_B in order:
            here = index_B.to(self.pixels_NCHW.device, non_blocking=True)
            yield self.pixels_NCHW[here].to(device, non_blocking=True)

    def to(self, device: torch.device) -> MemoryImages:
        """Copy the images to the device."""
        return replace(self, pixels_NCHW=self.pixels_NCHW.to(device))


@dataclass(frozen=True)
class Augmentation:
    """The train view: zero-pad, crop to the network's side at random, flip half of the images left to right.

    Images that cut their own train views (`resized_crops.CropFiles`) have no use for it.
    """

    padding: int = 0
    flip: bool = True


@dataclass(frozen=True)
class DataSet:
    """A data set as a run sees it."""

    #: the registered name, with a mark of these images where it needs one: `cub200[50 classes]`, `folder[birds]`
    name: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Images
    test: Images
    augmentation: Augmentation
    #: sha256 over pixels and targets (over names, sizes and targets where each image is a file)
    digest: str
    #: one line on where the images come from
    source: str = ""
    #: whether it is only a part of the published data set, e.g. 50 of CUB's 200 classes; False for a user's own images
    is_part: bool = False
    #: comes with the package: needs no folder and is never missing
    embedded: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)


registry: Registry[Callable[..., DataSet]] = Registry("data set", "datasets")


def digest_of(*tensors: Tensor) -> str:
    """Compute the sha256 over dtype, shape and bytes of the tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def stratified(targets_N: Tensor, size: int, *key: object) -> Tensor:
    """Draw a random subset of `size` images with every class in proportion, to one image; return its sorted indices.

    The draw is a function of the key. The images that rounding leaves over go to the classes with the largest
    remainders, ties broken at random.
    """
    rng = generator(*key)
    labels, counts = torch.unique(targets_N, return_counts=True)
    exact = counts.double() * (size / len(targets_N))
    quota = exact.floor().long()
    # random numbers below the resolution of the remainders break their ties
    remainder = (exact - quota) + 1e-6 * torch.rand(len(labels), generator=rng, dtype=torch.float64)
    quota[remainder.topk(size - int(quota.sum())).indices] += 1
    chosen = []
    for label, count in zip(labels, quota.tolist(), strict=True):
        members = (targets_N == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=rng)[:count]])
    return torch.cat(chosen).sort().values


def split_train(targets_N: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Split the training set into (train, val) indices: stratified and fixed, the same for every run and seed."""
    val = stratified(targets_N, round(fraction * len(targets_N)), "validation split")
    held_out = torch.zeros(len(targets_N), dtype=torch.bool)
    held_out[val] = True
    return (~held_out).nonzero()[:, 0], val
