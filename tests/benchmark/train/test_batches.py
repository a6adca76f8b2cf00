"""The stream of batches is a function of (seed, epoch, view) alone."""

from __future__ import annotations

import pytest
import torch

from benchmark.config import Data, Recipe
from benchmark.datasets import augment, views
from benchmark.datasets.base import Augmentation, DataSet, split_train, stratified
from benchmark.errors import UserError
from benchmark.train.batches import Batch, TrainStream, eval_batches, splits, trained_targets

CPU = torch.device("cpu")


def stream(data: DataSet, views: tuple[str, ...] = ("weak",), seed: int = 3, **recipe: object) -> TrainStream:
    members = torch.arange(100)
    return TrainStream(data, data.train, members, Recipe(**{"batch_size": 32, **recipe}), seed, views, CPU)  # type: ignore[arg-type]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(a.target_B, b.target_B) and torch.equal(a.views["weak"], b.views["weak"])
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_can_be_drawn_again_and_alone(digits: DataSet) -> None:
    walked = stream(digits)
    first, second = list(walked.epoch(1)), list(walked.epoch(2))
    assert same(second, list(stream(digits).epoch(2)))
    assert not torch.equal(first[0].target_B, second[0].target_B)
    assert not torch.equal(first[0].target_B, next(stream(digits, seed=4).epoch(1)).target_B)


def test_a_view_does_not_depend_on_the_others(digits: DataSet) -> None:
    both = list(stream(digits, ("weak", "strong")).epoch(1))
    assert same(both, list(stream(digits).epoch(1)))
    assert not torch.equal(both[0].views["weak"], both[0].views["strong"])


def test_a_registered_view_is_trained_on(digits: DataSet) -> None:
    @views.registry.register("inverted")
    def inverted(num_images: int, side: int, seed: int, epoch: int) -> views.Alter:
        """Crop and flip at random, then invert."""
        return lambda crops_BCHW, part: 255 - crops_BCHW

    try:
        both = next(iter(stream(digits, ("weak", "inverted")).drawn(1)))
    finally:
        views.registry.remove("inverted")
    assert set(both.crops) == {"weak"}
    crops = stream(digits).crops(1, "inverted", (16, 16)).stacked()[:, :32]
    expected = 255 - augment.crop_and_flip(both.pixels_BCHW, crops, digits.augmentation.padding, digits.image_size)
    assert torch.equal(both.made["inverted"], expected)


def test_an_unknown_view_is_refused(digits: DataSet) -> None:
    with pytest.raises(UserError, match="unknown view 'stong'; did you mean 'strong'"):
        stream(digits, ("weak", "stong"))


def test_the_last_partial_batch_is_kept_or_dropped(digits: DataSet) -> None:
    kept, dropped = stream(digits), stream(digits, drop_last=True)
    assert [len(batch.target_B) for batch in kept.epoch(1)] == [32, 32, 32, 4]
    assert [len(batch.target_B) for batch in dropped.epoch(1)] == [32, 32, 32]
    assert (kept.num_batches, dropped.num_batches) == (4, 3)


@pytest.mark.parametrize(("source", "side", "padding"), [(8, 8, 2), (90, 72, 0), (70, 72, 3)])
def test_crops_are_windows_of_the_padded_image(source: int, side: int, padding: int) -> None:
    """Small ones are gathered, large ones copied."""
    pixels = torch.randint(1, 255, (6, 3, source, source), dtype=torch.uint8)
    augmentation = Augmentation(padding=padding, flip=True)
    crops = augment.draw_crops(augmentation, 10, (source, source), side, seed=0, epoch=1, view="weak")
    seen = augment.crop_and_flip(pixels, crops.stacked()[:, 4:10], padding, side)
    padded = torch.nn.functional.pad(pixels, (padding, padding, padding, padding))
    assert len(crops.flip_N[4:10].unique()) == 2
    for number, image in enumerate(seen):
        top, left = int(crops.top_N[4 + number]), int(crops.left_N[4 + number])
        window = padded[number, :, top : top + side, left : left + side]
        assert torch.equal(image, window.flip(2) if crops.flip_N[4 + number] else window)


def test_offsets_reach_every_place_and_flips_are_half() -> None:
    crops = augment.draw_crops(Augmentation(padding=4, flip=True), 20_000, (32, 32), 32, 0, 1, "weak")
    assert crops.top_N.unique().tolist() == crops.left_N.unique().tolist() == list(range(9))
    assert abs(crops.flip_N.float().mean().item() - 0.5) < 0.02
    still = augment.draw_crops(Augmentation(padding=0, flip=False), 50, (256, 256), 224, 0, 1, "weak")
    assert int(still.top_N.max()) <= 32
    assert not still.flip_N.any()


def test_normalize_is_the_usual_formula() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    normalize = augment.Normalize(mean, std, CPU)
    for width in (4, 3):  # whatever width comes after another
        seen = normalize(pixels[..., :width])
        assert seen.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(seen.double(), expected[..., :width], atol=2e-6, rtol=0)


def test_the_test_view_is_the_centre_in_order(digits: DataSet) -> None:
    batches = list(eval_batches(digits, digits.test, torch.arange(30), CPU, batch_size=8))
    assert torch.cat([batch.target_B for batch in batches]).tolist() == digits.test.targets[:30].tolist()
    square = torch.arange(36).view(1, 1, 6, 6).to(torch.uint8)
    assert augment.center_crop(square, 2).flatten().tolist() == [14, 15, 20, 21]


def test_the_validation_split_is_fixed_stratified_and_apart(digits: DataSet) -> None:
    train, val = split_train(digits.train.targets, 0.1)
    assert len(val) == 400
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(4000))
    shares = digits.train.targets[val].bincount() / digits.train.targets.bincount()
    assert float(shares.min()) > 0.095
    assert float(shares.max()) < 0.105
    again = splits(digits, Data(name="digits", val_fraction=0.1, num_train=50))
    assert torch.equal(again.val, val)
    assert set(again.train.tolist()) <= set(train.tolist())
    assert len(splits(digits, Data(name="digits")).val) == 0


def test_subsets_have_the_size_that_is_asked_for(digits: DataSet) -> None:
    targets = digits.train.targets
    for size in (3, 10, 137, 4000):
        chosen = stratified(targets, size, "any key")
        assert len(chosen.unique()) == size
        assert torch.equal(chosen, stratified(targets, size, "any key"))
    counts = targets[stratified(targets, 137, "any key")].bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 2


def test_images_that_are_not_trained_on_have_no_target() -> None:
    targets_N = torch.tensor([3, 1, 0, 2])
    assert trained_targets(targets_N, torch.tensor([2, 0])).tolist() == [3, -1, 0, -1]
    assert targets_N.tolist() == [3, 1, 0, 2]
