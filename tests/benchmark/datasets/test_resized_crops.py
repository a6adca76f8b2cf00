"""Random resized crops are functions of (seed, epoch, place, view), and views are torchvision's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from benchmark.config import Recipe
from benchmark.datasets import create, image_files, resized_crops
from benchmark.datasets.base import DataSet
from benchmark.datasets.resized_crops import ATTEMPTS, box, centre, crop, draw
from benchmark.train.batches import Batch, TrainStream, eval_batches
from benchmark.train.ranks import ALONE, Ranks
from tests.imagenet import WNIDS, write_tree

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of nine images, of a fifth of their usual size."""
    root = tmp_path_factory.mktemp("data")
    write_tree(root / "imagenet", WNIDS[:3], per_class=9, scale=0.2, val_per_class=4)
    return root


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch be decoded in several pieces, the last of which is smaller."""
    monkeypatch.setattr(resized_crops, "PIECE", 3)


def images(root: Path, num_workers: int = 0) -> DataSet:
    """Load the tree for networks that see 64 pixels, which is faster."""
    data = create("imagenet", root, num_workers=num_workers)
    for split in (data.train, data.test):
        split._files._side = 64  # type: ignore[attr-defined]
    return replace(data, image_size=64)


def stream(data: DataSet, batch_size: int, ranks: Ranks = ALONE, seed: int = 3) -> TrainStream:
    recipe = Recipe(batch_size=batch_size, lr=0.1)
    return TrainStream(data, data.train, torch.arange(27), recipe, seed, ("weak", "strong"), CPU, ranks)


def joined(batches: list[Batch], view: str) -> Tensor:
    return torch.cat([batch.views[view] for batch in batches])


def test_crops_do_not_depend_on_batches_processes_ranks_or_where_training_goes_on(root: Path) -> None:
    data = images(root)
    whole = list(stream(data, 8).epoch(1))
    assert [batch.views["weak"].shape for batch in whole][::3] == [(8, 3, 64, 64), (3, 3, 64, 64)]
    forked = images(root, 2)
    state = torch.get_rng_state()
    others = {
        "batch size and processes": list(stream(forked, 5).epoch(1)),
        "place": [*whole[:2], *map(stream(data, 8).batch, stream(data, 8).drawn(1, skipped=2))],
    }
    assert torch.equal(torch.get_rng_state(), state)
    for other in others.values():
        for view in ("weak", "strong"):
            assert torch.equal(joined(other, view), joined(whole, view))
        assert torch.equal(torch.cat([b.target_B for b in other]), torch.cat([b.target_B for b in whole]))
    first, second = (list(stream(data, 8, Ranks(rank, 2)).epoch(1)) for rank in (0, 1))
    for batch, one, two in zip(whole, first, second, strict=True):
        assert torch.equal(torch.cat([one.views["strong"], two.views["strong"]]), batch.views["strong"])


def test_epochs_seeds_and_views_have_crops_of_their_own(root: Path) -> None:
    drawn = [draw(50, 3, 1, "weak"), draw(50, 3, 2, "weak"), draw(50, 4, 1, "weak"), draw(50, 3, 1, "strong")]
    assert len({tuple(numbers[0].tolist()) for numbers in drawn}) == 4
    batch = next(stream(images(root), 8).epoch(1))
    assert not torch.equal(batch.views["weak"], batch.views["strong"])


def test_what_is_skipped_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    monkeypatch.setattr(resized_crops, "read", lambda path, **how: read.append(path) or image_files.read(path, **how))
    made = stream(images(root), 8)
    assert len(list(made.drawn(1, skipped=3))) == 1
    assert len(read) == 3  # once for both views
    assert not list(made.drawn(1, skipped=4))


def test_boxes_are_torchvisions() -> None:
    """Parts have area and aspect within the bounds and lie anywhere; where no part fits, the centre is taken."""
    height, width = 375, 500
    boxes = np.array([box(row, height, width) for row in draw(4000, 0, 1, "weak").tolist()])
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    share, aspect = h * w / (height * width), w / h
    assert 0.078 < share.min() < 0.082
    assert 0.97 < share.max() <= 1
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    get = transforms.RandomResizedCrop.get_params
    theirs = np.array([get(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1000)])
    for ours, other in zip(boxes.T, theirs.T, strict=True):  # of 100 to 300 pixels
        assert np.abs(np.quantile(ours, (0.1, 0.5, 0.9)) - np.quantile(other, (0.1, 0.5, 0.9))).max() < 20
    for shape in ((375, 500), (50, 900), (900, 50), (300, 310), (1, 1)):
        never = [0.5, 0.5, 0.5, *[0.999, 0.999 if shape[1] < 1.3 * shape[0] else 0.0] * ATTEMPTS]
        if shape != (1, 1):
            assert box(never, *shape) == tuple(get(torch.empty(3, *shape), [9.0, 9.0], [3 / 4, 4 / 3]))
        assert box(never, *shape)[2] >= 1


def test_views_are_torchvisions() -> None:
    rng = np.random.RandomState(0)
    for height, width in ((300, 400), (333, 250), (180, 411)):
        image = Image.fromarray(rng.randint(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = np.array(image)
        expected = transforms.CenterCrop(224)(transforms.Resize(256)(image))
        assert largest(centre(pixels, 224), expected) <= 1
        numbers = draw(2, 0, 1, "weak").tolist()
        for flip in (0.2, 0.7):
            part = functional.resized_crop(image, *box(numbers[0], height, width), [224, 224])
            seen = crop(pixels, [flip, *numbers[0][1:]], 224)
            assert largest(seen, functional.hflip(part) if flip < 0.5 else part) <= 1


def largest(seen: Tensor, expected: Image.Image) -> int:
    """Largest difference of two images, in levels."""
    return int((seen.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()).abs().max())


def test_odd_files_are_seen_as_torchvision_sees_them(root: Path) -> None:
    """In grey, in CMYK, a PNG by the name of a JPEG, and one that EXIF would turn."""
    data = create("imagenet", root, num_workers=0)
    (seen,) = data.test.batches([torch.arange(4)], CPU)
    paths = sorted((root / "imagenet" / "val" / WNIDS[0]).iterdir())
    found = []
    for pixels, path in zip(seen, paths, strict=True):
        with Image.open(path) as image:
            found.append((image.format, image.mode, image.getexif().get(0x0112)))
            assert largest(pixels, transforms.CenterCrop(224)(transforms.Resize(256)(image.convert("RGB")))) <= 1
    assert found == [("JPEG", "L", None), ("JPEG", "CMYK", None), ("PNG", "RGB", None), ("JPEG", "RGB", 6)]
    (batch,) = eval_batches(data, data.test, torch.arange(4), CPU)
    assert batch.views["weak"].shape == (4, 3, 224, 224)
