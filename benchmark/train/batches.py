"""One stream of batches for a whole cohort: a pure function of (seed, epoch), so training can start at any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.config import Data, Recipe
from benchmark.datasets import augment, resized_crops, views
from benchmark.datasets.base import DataSet, Images, MemoryImages, split_train, stratified
from benchmark.datasets.resized_crops import CropFiles
from benchmark.randomness import generator
from benchmark.train.ranks import ALONE, Ranks


class Batch(NamedTuple):
    """One batch of the training stream, on the device."""

    #: view name -> (B, 3, S, S) float32, normalised
    views: dict[str, Tensor]
    #: (B,) int64
    target_B: Tensor
    #: (B,) int64: number of each image in the training set; None for images that are tested
    index_B: Tensor | None = None


class Drawn(NamedTuple):
    """The ingredients of a batch, on the device: pixels, and the random numbers of its views."""

    #: (B, 3, H, W) uint8, as the data set holds them; None where every view was cut when the images were decoded
    pixels_BCHW: Tensor | None
    #: (3, B) int64 by view: top, left, flip
    crops: dict[str, Tensor]
    #: (B, 3, S, S) uint8 by view, for views that are more than crop and flip, or were cut from the files
    made: dict[str, Tensor]
    #: (B,) int64
    target_B: Tensor
    #: (B,) int64: number of each image in the training set
    index_B: Tensor


#: pixels, crops and finished views of a batch, as `Drawn` has them
_Seen = tuple[Tensor | None, dict[str, Tensor], dict[str, Tensor]]


class TrainStream:
    """Batches of one training set in the order of a seed, in every view that a lane of the cohort asks for."""

    def __init__(
        self,
        data: DataSet,
        images: Images,
        members: Tensor,
        recipe: Recipe,
        seed: int,
        view_names: Sequence[str],
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.data, self.images, self.members = data, images, members
        self.batch_size, self.drop_last = recipe.batch_size, recipe.drop_last
        self.seed, self.device = seed, device
        self.views = {view: views.registry.get(view) for view in view_names}
        self.normalize = augment.Normalize(data.mean, data.std, device)
        self.targets_N = images.targets.to(device)

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch."""
        count = len(self.members)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Draw the order of an epoch's images: (N,) indices into the training set, on the CPU; epochs count from 1."""
        return self.members[torch.randperm(len(self.members), generator=generator(self.seed, "order", epoch))]

    def crops(self, epoch: int, view: str, source: tuple[int, int]) -> augment.Crops:
        """Draw the crops of an epoch and view, in the epoch's order, from images of `source` (height, width)."""
        return augment.draw_crops(
            self.data.augmentation, len(self.members), source, self.data.image_size, self.seed, epoch, view
        )

    def drawn(self, epoch: int, skipped: int = 0) -> Iterator[Drawn]:
        """Yield the ingredients of an epoch's batches, from which `batch` makes them, without the first `skipped`.

        No image of a batch that is skipped is read.
        """
        order = self.order(epoch)
        first, last = skipped * self.batch_size, self.num_batches * self.batch_size
        whole = range(first, min(last, len(order)), self.batch_size)
        if not whole:  # nothing starts the processes of a loader
            return
        parts = [self._share(start, len(order)) for start in whole]
        # one transfer per epoch, not one per batch
        index_N = order.to(self.device)
        target_N = self.targets_N[index_N]
        seen = self._cut if isinstance(self.images, CropFiles) else self._whole
        for part, (pixels_BCHW, crops, made) in zip(parts, seen(epoch, order, parts), strict=True):
            yield Drawn(pixels_BCHW, crops, made, target_N[part], index_N[part])

    def _share(self, start: int, count: int) -> slice:
        """The places in the epoch of this rank's images of the batch that begins at `start`."""
        share = self.ranks.share(min(self.batch_size, count - start))
        return slice(start + share.start, start + share.stop)

    def _whole(self, epoch: int, order: Tensor, parts: list[slice]) -> Iterator[_Seen]:
        """Yield whole images of one size with the crops of their views, which are cut on the device."""
        home = self._at_home(order)
        crops: dict[str, Tensor] = {}
        alters: dict[str, views.Alter] = {}
        for part, pixels_BCHW in zip(
            parts, self.images.batches([home[part] for part in parts], self.device), strict=True
        ):
            if not crops:
                height, width = pixels_BCHW.shape[2:]
                crops = {
                    view: self.crops(epoch, view, (height, width)).stacked().to(self.device) for view in self.views
                }
                alters = self._alters(epoch)
            here = {view: crops_3N[:, part] for view, crops_3N in crops.items()}
            made = {view: alter(self._cropped(pixels_BCHW, here.pop(view)), part) for view, alter in alters.items()}
            yield pixels_BCHW, here, made

    def _cut(self, epoch: int, order: Tensor, parts: list[slice]) -> Iterator[_Seen]:
        """Yield the views of images of many sizes, cut where they are decoded."""
        assert isinstance(self.images, CropFiles)
        drawn = {view: resized_crops.draw(len(order), self.seed, epoch, view) for view in self.views}
        alters = self._alters(epoch)
        by_batch = [{view: crops_NM[part] for view, crops_NM in drawn.items()} for part in parts]
        for part, cut in zip(
            parts, self.images.cut([order[part] for part in parts], by_batch, self.device), strict=True
        ):
            yield None, {}, {view: alters[view](x, part) if view in alters else x for view, x in cut.items()}

    def batch(self, drawn: Drawn) -> Batch:
        """Make the batch in every view. Reads nothing back to the host: a step with it can be captured as a graph."""
        seen = dict(drawn.made)
        if drawn.pixels_BCHW is not None:
            seen |= {view: self._cropped(drawn.pixels_BCHW, crops) for view, crops in drawn.crops.items()}
        return Batch({view: self.normalize(seen[view]) for view in self.views}, drawn.target_B, drawn.index_B)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 1."""
        return map(self.batch, self.drawn(epoch))

    def _alters(self, epoch: int) -> dict[str, views.Alter]:
        """Draw an epoch's changes to the crops, by view; views that change nothing are left out."""
        side = self.data.image_size
        drawn = {view: draw(len(self.members), side, self.seed, epoch) for view, draw in self.views.items()}
        return {view: alter for view, alter in drawn.items() if alter is not None}

    def _cropped(self, pixels_BCHW: Tensor, crops_3B: Tensor) -> Tensor:
        return augment.crop_and_flip(pixels_BCHW, crops_3B, self.data.augmentation.padding, self.data.image_size)

    def _at_home(self, order: Tensor) -> Tensor:
        """Move the order to where the pixels are: for images on a GPU all at once, not batch by batch."""
        return order.to(self.images.pixels_NCHW.device) if isinstance(self.images, MemoryImages) else order


def eval_batches(
    data: DataSet, images: Images, members: Tensor, device: torch.device, batch_size: int | None = None
) -> Iterator[Batch]:
    """Yield the test view (centre crop) of the given images, in order."""
    if batch_size is None:  # memory for activations stays below that of a training step
        batch_size = (250 if data.image_size <= 64 else 50) * (1 if device.type == "cpu" else 4)
    normalize = augment.Normalize(data.mean, data.std, device)
    targets_N = images.targets.to(device)
    parts = list(torch.split(members, batch_size))
    for part, pixels_BCHW in zip(parts, images.batches(parts, device), strict=True):
        view = augment.center_crop(pixels_BCHW, data.image_size)
        yield Batch({"weak": normalize(view)}, targets_N[part.to(device)])


class Splits(NamedTuple):
    """Images that a run trains on, is selected on and is tested on: indices into train, train and test."""

    train: Tensor
    val: Tensor
    test: Tensor


def trained_targets(targets_N: Tensor, members: Tensor) -> Tensor:
    """Classes of the training set, (N,), with -1 for images that are not among `members`."""
    return torch.full_like(targets_N, -1).index_copy(0, members, targets_N[members])


def splits(data: DataSet, config: Data) -> Splits:
    """Make the splits that a run's data fields describe; every draw is fixed, the same for all runs."""
    train, val = torch.arange(len(data.train)), torch.arange(0)
    if config.val_fraction:
        train, val = split_train(data.train.targets, config.val_fraction)
    if config.num_train is not None and config.num_train < len(train):
        train = train[stratified(data.train.targets[train], config.num_train, "train subset")]
    test = torch.arange(len(data.test))
    if config.num_test is not None and config.num_test < len(test):
        test = stratified(data.test.targets, config.num_test, "test subset")
    return Splits(train, val, test)


def on_device(images: Images, device: torch.device, reserve: float = 0.5) -> Images:
    """Move images held in memory to a GPU when they take less than the fraction `reserve` of its free memory."""
    if device.type != "cuda" or not isinstance(images, MemoryImages):
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.pixels_NCHW.nbytes < reserve * free else images
