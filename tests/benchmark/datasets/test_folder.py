"""Any tree of images: its name, its size, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets import create
from benchmark.errors import UserError


def write(path: Path, test: str = "test", classes: tuple[str, ...] = ("crow", "duck"), count: int = 3) -> None:
    """Write a tree of small images."""
    rng = np.random.RandomState(0)
    for split in ("train", test):
        for name in classes:
            (path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.randint(0, 256, (20, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{number}.png")


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write a tree of two classes; return the options."""
    write(root / "birds")
    return {"path": "birds", "image_size": 28}


@pytest.mark.parametrize("test", ["test", "val"])
def test_tree_is_named_and_decoded_at_its_size(tmp_path: Path, test: str) -> None:
    write(tmp_path / "birds", test)
    data = create("folder", tmp_path / "data", path=str(tmp_path / "birds"), image_size=28)
    assert (data.name, data.classes, data.image_size) == ("folder[birds]", ("crow", "duck"), 28)
    assert not data.is_part
    assert data.train.pixels_NCHW.shape == (6, 3, 32, 32)  # type: ignore[attr-defined]
    assert data.test.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_path_is_required(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--set data\.path=<path>"):
        create("folder", tmp_path)


@pytest.mark.parametrize("path", ["nothing", "birds"])
def test_other_layouts_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "birds" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"(is missing|has no folder of a class): expected are <path>/train/<class>"):
        create("folder", tmp_path, path=path)


def test_differing_classes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    (tmp_path / "birds" / "train" / "gull").mkdir()
    (tmp_path / "birds" / "test" / "owl").mkdir()
    with pytest.raises(UserError, match=r"gull \(only in train\), owl \(only in test\)"):
        create("folder", tmp_path, path="birds")


def test_empty_classes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    for path in (tmp_path / "birds" / "train" / "duck").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"train: no image .* in duck"):
        create("folder", tmp_path, path="birds")
