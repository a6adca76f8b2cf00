"""CUB-200-2011: parts are named as what they are, and inconsistent files are refused."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets import create, cub200
from benchmark.errors import UserError

#: the official ids of a part's classes have holes
LABELS = (3, 7, 20)


def write(root: Path, labels: Sequence[int] = LABELS, per_class: int = 4) -> Path:
    """Write the official layout with small images; return its folder."""
    folder = root / "CUB_200_2011"
    rng = np.random.RandomState(0)
    images, targets, split = [], [], []
    for label in labels:
        (folder / "images" / f"{label:03}.Bird").mkdir(parents=True)
        for number in range(per_class):
            name = f"{label:03}.Bird/bird_{number}.jpg"
            pixels = rng.randint(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append(f"{len(images) + 1} {name}")
            targets.append(f"{len(images)} {label}")
            split.append(f"{len(images)} {int(number % 2 == 0)}")
    classes = [f"{label} {label:03}.Bird" for label in labels]
    for title, lines in (
        ("images", images),
        ("image_class_labels", targets),
        ("train_test_split", split),
        ("classes", classes),
    ):
        (folder / f"{title}.txt").write_text("\n".join(lines) + "\n")
    return folder


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the official layout with three classes; return the options."""
    write(root)
    return {}


@pytest.mark.parametrize(
    ("num_classes", "num_images", "name"),
    [(200, 11788, "cub200"), (200, 11000, "cub200[11000 images]"), (50, 2889, "cub200[50 classes]")],
)
def test_name_says_which_part(num_classes: int, num_images: int, name: str) -> None:
    assert cub200._name(num_classes, num_images) == name


@pytest.mark.parametrize("place", ["", "cub200"])
def test_part_has_contiguous_targets(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    data = create("cub200", tmp_path)
    assert (data.name, data.is_part) == ("cub200[3 classes]", True)
    assert data.classes == ("003.Bird", "007.Bird", "020.Bird")
    assert data.train.targets.tolist() == data.test.targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_classes_without_images_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with (folder / "classes.txt").open("a") as file:
        file.write("21 021.Bird\n")
    assert create("cub200", tmp_path).num_classes == 3


def test_archive_placed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(write(tmp_path / "elsewhere"), "CUB_200_2011")
    with pytest.raises(UserError, match=r"CUB_200_2011\.tgz is damaged"):
        create("cub200", tmp_path)
    md5 = hashlib.md5((tmp_path / "CUB_200_2011.tgz").read_bytes()).hexdigest()
    monkeypatch.setattr(cub200, "ARCHIVE", replace(cub200.ARCHIVE, md5=md5))
    assert create("cub200", tmp_path).num_classes == 3


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        create("cub200", tmp_path)
    for part in ("python -m benchmark prepare cub200", cub200.ARCHIVE.url, cub200.ARCHIVE.md5, str(tmp_path)):
        assert part in str(caught.value)


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for number in (0, 2):
        (folder / "images" / "007.Bird" / f"bird_{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"007\.Bird/bird_0\.jpg is missing \(2 of 6 images are\)"):
        create("cub200", tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("classes", "7 007.Bird\n", "", r"image_class_labels\.txt, line 5: class 7 is not in classes\.txt"),
        ("image_class_labels", "5 7\n", "5\n", r"image_class_labels\.txt, line 5: '5' is not an id and a value"),
        ("image_class_labels", "5 7\n", "5 x\n", r"image_class_labels\.txt, line 5: class x is not in"),
        ("image_class_labels", "5 7\n", "", r"images\.txt, line 5: image 5 is not in image_class_labels\.txt"),
        ("images", "5 007.Bird/bird_0.jpg\n", "", r"image_class_labels\.txt, line 5: image 5 is not in images\.txt"),
        ("train_test_split", "5 1\n", "5 2\n", r"train_test_split\.txt, line 5: '2' is neither"),
        ("train_test_split", "5 1\n", "4 1\n", r"train_test_split\.txt, line 5: id 4 was on line 4"),
    ],
)
def test_inconsistent_files_are_named_with_the_line(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = write(tmp_path) / f"{name}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        create("cub200", tmp_path)
