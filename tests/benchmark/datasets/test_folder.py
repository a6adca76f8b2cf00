"""Any tree of images: its name, its size, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets import create
from benchmark.errors import UserError


def write(path: Path, test: str = "test", classes: tuple[str, ...] = ("crow", "duck"), count: int = 3) -> None:
    """Write a tree of small images."""
    for number_of_split, split in enumerate(("train", test)):
        rng = np.random.RandomState(number_of_split)
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


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "birds", classes=("crow",))
    with pytest.raises(UserError, match="has one class only, crow"):
        create("folder", tmp_path, path="birds")


@pytest.mark.parametrize("name", [b"cr\xffw", b"two\nlines", b"es\x1b[31mc"])
def test_names_that_no_table_can_show_are_refused_at_once(tmp_path: Path, name: bytes) -> None:
    """The traceback came after all training was done."""
    write(tmp_path / "birds", classes=("duck", os.fsdecode(name)))
    with pytest.raises(UserError, match=r"train: the name of the class folder '.*' (is not|has a).*: rename it"):
        create("folder", tmp_path, path="birds")
    (tmp_path / "birds").rename(tmp_path / os.fsdecode(name))
    with pytest.raises(UserError, match=r"data.path: the name of the folder '.*' (is not|has a).*: rename it"):
        create("folder", tmp_path, path=os.fsdecode(name))


@pytest.mark.parametrize("path", ["n" * 300, "n" * 90, "a\0b", "loop"])
def test_paths_that_cannot_be_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"data\.path: "):
        create("folder", tmp_path, path=path)


def test_train_and_test_are_different_folders(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    shutil.rmtree(tmp_path / "birds" / "test")
    (tmp_path / "birds" / "test").symlink_to("train")
    with pytest.raises(UserError, match="train and test are the same folder"):
        create("folder", tmp_path, path="birds")
    (tmp_path / "birds" / "test").unlink()
    shutil.copytree(tmp_path / "birds" / "train", tmp_path / "birds" / "test")
    with pytest.raises(UserError, match=r"6 of 6 test images are in train too, byte for byte \(test/crow/0\.png is"):
        create("folder", tmp_path, path="birds")


def test_some_leaked_images_are_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "birds")
    for name in ("0.png", "2.png"):
        shutil.copy(tmp_path / "birds" / "train" / "crow" / name, tmp_path / "birds" / "test" / "duck" / name)
    data = create("folder", tmp_path, path="birds", image_size=28)
    said = "2 of 6 test images are in train too, byte for byte"
    assert f"WARNING: {tmp_path / 'birds'}: {said}" in capsys.readouterr().err
    assert data.source == f"{tmp_path / 'birds'}; {said}"


def test_links_that_lead_back_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    (tmp_path / "birds" / "train" / "crow" / "more").symlink_to("..")
    with pytest.raises(UserError, match=r"more/crow is .*crow again, by a link"):
        create("folder", tmp_path, path="birds")


def test_debris_and_other_files_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "birds")
    for split in ("train", "test"):  # images differ between the splits
        for path in (tmp_path / "birds" / split).rglob("*.png"):
            path.write_bytes(path.read_bytes() + split.encode())
    crow = tmp_path / "birds" / "train" / "crow"
    plain = create("folder", tmp_path, path="birds", image_size=28)
    assert "left out" not in capsys.readouterr().err
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".hidden/0.png"):
        (crow / name).parent.mkdir(exist_ok=True)
        (crow / name).write_bytes(b"debris")
    assert create("folder", tmp_path, path="birds", image_size=28).digest == plain.digest
    assert "left out" not in capsys.readouterr().err
    (crow / "notes.txt").touch()
    (crow / "0.png").rename(crow / "line\nend.PNG")
    assert len(create("folder", tmp_path, path="birds", image_size=28).train) == 6
    assert "train: left out, since their ending is no image's: 1 .txt" in capsys.readouterr().err


def test_files_that_are_no_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "birds")
    bad = tmp_path / "birds" / "train" / "crow" / "x.jpg"
    os.mkfifo(bad)
    os.mkfifo(tmp_path / "birds" / "test" / "crow" / "y.jpg")  # of equal size: nothing may open one to compare them
    with pytest.raises(UserError, match=r"x\.jpg is not a regular file"):
        create("folder", tmp_path, path="birds")
    bad.unlink()
    (tmp_path / "birds" / "test" / "crow" / "y.jpg").unlink()
    bad.touch()
    with pytest.raises(UserError, match=r"x\.jpg is empty"):
        create("folder", tmp_path, path="birds")
    bad.unlink()
    bad.symlink_to("x.jpg")
    with pytest.raises(UserError, match=r"x\.jpg is missing"):
        create("folder", tmp_path, path="birds")
