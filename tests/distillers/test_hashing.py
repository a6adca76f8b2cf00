"""Hashed numbers: even, without a pattern in any of the numbers that they come from, the same in every form."""

from __future__ import annotations

import torch

from distillers.hashing import END, hashed

COUNT = 100_000


def test_every_place_is_even_and_unrelated_to_its_neighbours() -> None:
    along = torch.arange(COUNT)
    for numbers in (hashed(torch.tensor(3), along, 1), hashed(torch.tensor(3), 1, along), hashed(along, 3, 1)):
        uniform = numbers.double() / END
        assert uniform.min() >= 0 and uniform.max() < 1
        counts = torch.bincount((uniform * 100).long(), minlength=100).double()
        # chi-squared of 99 degrees of freedom: above 160 once in 10,000 times
        assert ((counts - COUNT / 100).square() / (COUNT / 100)).sum() < 160
        assert torch.corrcoef(torch.stack([uniform[:-1], uniform[1:]]))[0, 1].abs() < 4 / COUNT**0.5
        bits = (numbers[:, None] >> torch.arange(32)) & 1
        assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / COUNT**0.5


def test_order_and_form() -> None:
    salt = torch.tensor(END - 1)
    assert hashed(salt, 1, 2) != hashed(salt, 2, 1)
    assert hashed(salt, 5) == hashed(salt, torch.tensor(5.0)) == hashed(salt, torch.tensor(5))
    assert hashed(salt, 5).dtype == torch.int64
