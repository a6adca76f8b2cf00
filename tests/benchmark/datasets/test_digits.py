"""The embedded data set: a fixed function of its seed, without a digit on both sides of the split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets import digits as module
from benchmark.datasets.base import DataSet


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing to write: the data set is embedded."""
    return {}


def test_renders_are_fixed_and_of_the_documented_shape(tmp_path: Path) -> None:
    first, second = module.digits(tmp_path), module.digits(tmp_path)
    assert first.digest == second.digest
    for images, count in ((first.train, module.NUM_TRAIN), (first.test, module.NUM_TEST)):
        (pixels,) = images.batches([torch.arange(len(images))], torch.device("cpu"))
        assert pixels.shape == (count, 3, module.SIDE, module.SIDE)
        assert torch.equal(pixels[:, 0], pixels[:, 2])
        assert images.targets.bincount(minlength=10).min() > 0


def test_no_source_digit_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits  # takes seconds, which only this test has to wait for

    members: list[set[int]] = []
    render = module._render

    def spy(glyphs: Any, labels: Any, chosen: Any, *rest: Any, **named: Any) -> Any:
        members.append(set(chosen.tolist()))
        blind = glyphs.copy()
        blind[np.setdiff1d(np.arange(len(glyphs)), chosen)] = np.nan  # a piece from outside would show
        return render(blind, labels, chosen, *rest, **named)

    plain = module.digits(tmp_path)
    monkeypatch.setattr(module, "_render", spy)
    assert module.digits(tmp_path).digest == plain.digest
    train, test = members
    assert not train & test
    assert train | test == set(range(len(load_digits().target)))


def test_renders_are_kept_and_mapped_and_a_damaged_file_is_made_again(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.digits(tmp_path, cache=tmp_path / "cache").digest == digits.digest
    assert not (tmp_path / "cache").exists()  # who only looks writes nothing
    first = module.digits(tmp_path, cache=tmp_path / "cache", render=True)
    assert first.digest == digits.digest
    kept = sorted((tmp_path / "cache").glob("digits-*.npy"))
    assert [path.name.split("-")[1] for path in kept] == ["test", "train"]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_render", None)  # nothing is rendered twice
        assert module.digits(tmp_path, cache=tmp_path / "cache").digest == digits.digest
    content = bytearray(kept[0].read_bytes())
    content[-1] ^= 1
    kept[0].write_bytes(content)
    assert module.digits(tmp_path, cache=tmp_path / "cache").digest == digits.digest
