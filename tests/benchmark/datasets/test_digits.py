"""The embedded data set: a fixed function of its seed, without a digit on both sides of the split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmark.datasets import create, digits


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing to write: the data set is embedded."""
    return {}


def test_renders_are_fixed_and_of_the_documented_shape(tmp_path: Path) -> None:
    first, second = create("digits", tmp_path), create("digits", tmp_path)
    assert first.digest == second.digest
    for images, count in ((first.train, digits.NUM_TRAIN), (first.test, digits.NUM_TEST)):
        (pixels,) = images.batches([torch.arange(len(images))], torch.device("cpu"))
        assert pixels.shape == (count, 3, digits.SIDE, digits.SIDE)
        assert torch.equal(pixels[:, 0], pixels[:, 2])
        assert images.targets.bincount(minlength=10).min() > 0


def test_no_source_digit_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: list[set[int]] = []
    render = digits._render

    def spy(glyphs: Any, labels: Any, chosen: Any, *rest: Any, **named: Any) -> Any:
        members.append(set(chosen.tolist()))
        blind = glyphs.copy()
        blind[np.setdiff1d(np.arange(len(glyphs)), chosen)] = np.nan  # a piece from outside would show
        return render(blind, labels, chosen, *rest, **named)

    plain = create("digits", tmp_path)
    monkeypatch.setattr(digits, "_render", spy)
    assert create("digits", tmp_path).digest == plain.digest
    train, test = members
    assert not train & test
    assert train | test == set(range(len(load_digits().target)))
