"""CRD's negatives: of other classes, never one twice, a function of salt, epoch and image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import distillers
from distillers import Outputs
from distillers.base import UnfitPair
from distillers.crd import Negatives
from distillers.network import Stages

#: 12 images of 3 classes, of 5, 4 and 3 images; three that are not trained on
TARGETS = torch.tensor([0, 1, -1, 2, 0, 1, 0, -1, 2, 0, 1, 0, 2, 1, -1])
TRAINED = (TARGETS >= 0).nonzero()[:, 0]


def negatives(most: int = 16384, seed: int = 0) -> Negatives:
    torch.manual_seed(seed)
    return Negatives(TARGETS, 4, most)


def drawn(made: Negatives, epoch: int | Tensor) -> Tensor:
    drawn_BK: Tensor = made(TRAINED, TARGETS[TRAINED], epoch)
    return drawn_BK


@pytest.mark.parametrize("most", [3, 16384])
def test_they_are_of_other_classes_and_none_comes_twice(most: int) -> None:
    made = negatives(most)
    for epoch in range(1, 20):
        drawn_BK = drawn(made, epoch)
        assert drawn_BK.shape == (12, min(most, 12 - 5))
        for label, row in zip(TARGETS[TRAINED], drawn_BK, strict=True):
            assert len(row.unique()) == len(row)
            assert (TARGETS[row] >= 0).all() and (TARGETS[row] != label).all()


def test_they_are_a_function_of_salt_epoch_and_image() -> None:
    made, same, other = negatives(3), negatives(3), negatives(3, seed=1)
    first = drawn(made, 1)
    assert torch.equal(first, drawn(same, 1))
    assert torch.equal(first, drawn(made, torch.tensor(1.0)))
    one = made(TRAINED[4:5], TARGETS[TRAINED[4:5]], 1)
    assert torch.equal(first[4:5], one)
    assert not torch.equal(first, drawn(made, 2))
    assert not torch.equal(first, drawn(other, 1))
    made.salt += 1
    assert not torch.equal(first, drawn(made, 1))


def test_every_other_image_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    targets_N = torch.arange(60) % 5
    made = Negatives(targets_N, 5, 12)
    images = torch.arange(60)
    epochs = 400
    drawn_EBK = torch.stack([made(images, targets_N, epoch) for epoch in range(epochs)])
    counts_BN = torch.zeros(60, 60).scatter_add_(1, drawn_EBK.permute(1, 0, 2).flatten(1), torch.ones(60, epochs * 12))
    others_BN = targets_N[:, None] != targets_N[None]
    assert not counts_BN[~others_BN].any()
    # each of the 48 others with a chance of 1/4; by image over all the others' draws the deviation is below 1%
    share_BN = counts_BN[others_BN] / epochs
    assert share_BN.mean() == 0.25
    assert (share_BN - 0.25).abs().max() < 5 * (0.25 * 0.75 / epochs) ** 0.5
    together = counts_BN.sum(0) / (48 * epochs)
    assert (together - 0.25).abs().max() < 0.015


def test_one_class_has_no_negatives() -> None:
    with pytest.raises(UnfitPair, match="all images are of one"):
        Negatives(torch.zeros(4, dtype=torch.int64), 2, 5)


def test_images_without_numbers_are_refused() -> None:
    seen = Outputs(torch.randn(2, 3), torch.empty(2, 0, 3), Stages((), (), torch.randn(2, 4, 1, 1)))
    with pytest.raises(ValueError, match="numbers in the training set"):
        distillers.create("crd").losses({"weak": seen}, {"weak": seen}, torch.tensor([0, 1]), 1)
