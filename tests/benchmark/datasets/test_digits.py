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


#: sums of all train and test pixels, which a platform's logarithm may move by a little
TRAIN_SUM, TEST_SUM = 107_904_657, 53_976_846


@pytest.fixture(scope="module")
def plain() -> DataSet:
    """The data set as whoever only looks gets it: rendered in memory."""
    return module.digits(Path())


def test_renders_are_fixed_and_of_the_documented_shape(plain: DataSet, digits: DataSet) -> None:
    assert plain.digest == digits.digest
    for images, count, total in (
        (plain.train, module.NUM_TRAIN, TRAIN_SUM),
        (plain.test, module.NUM_TEST, TEST_SUM),
    ):
        (pixels,) = images.batches([torch.arange(len(images))], torch.device("cpu"))
        assert pixels.shape == (count, 3, module.SIDE, module.SIDE)
        assert float(pixels.sum(dtype=torch.float64)) == pytest.approx(total, rel=1e-6)
        assert torch.equal(pixels[:, 0], pixels[:, 2])
        assert images.targets.bincount(minlength=10).min() > 0


def test_no_source_digit_is_shared(plain: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits  # takes seconds, which only this test has to wait for

    members: list[set[int]] = []
    render = module._render

    def spy(glyphs: Any, labels: Any, chosen: Any, *rest: Any, **named: Any) -> Any:
        members.append(set(chosen.tolist()))
        blind = glyphs.copy()
        blind[np.setdiff1d(np.arange(len(glyphs)), chosen)] = np.nan  # a piece from outside would show
        return render(blind, labels, chosen, *rest, **named)

    monkeypatch.setattr(module, "_render", spy)
    assert module.digits(Path()).digest == plain.digest
    train, test = members
    assert not train & test
    assert train | test == set(range(len(load_digits().target)))


def test_renders_are_kept_and_mapped_and_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NUM_TRAIN", 400)
    monkeypatch.setattr(module, "NUM_TEST", 200)
    digits = module.digits(tmp_path, cache=tmp_path / "cache")
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
