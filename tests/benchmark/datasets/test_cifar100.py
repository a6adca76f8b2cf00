"""CIFAR-100: official layout only, every file checked before it is read."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets import cifar100, create
from benchmark.errors import UserError

NUM_TRAIN, NUM_TEST = 40, 20


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the official layout with few images, make its checksums the expected ones; return the options."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    names = [f"class{number:02}" for number in range(10)]
    contents: dict[str, dict[str, Any]] = {"meta": {"fine_label_names": names}}
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        pixels = rng.randint(0, 256, (count, 3072), dtype=np.uint8)
        contents[split] = {"data": pixels, "fine_labels": [number % 10 for number in range(count)]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in cifar100.MD5}
    monkeypatch.setattr(cifar100, "MD5", sums)
    return {}


def packed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put only the archive of the tiny copy under `root`, as a person would."""
    elsewhere = root / "elsewhere"
    tiny(elsewhere, monkeypatch)
    archive = root / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(elsewhere / "cifar-100-python", "cifar-100-python")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar100, "ARCHIVE", replace(cifar100.ARCHIVE, md5=md5))
    return archive


def test_pixels_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path, monkeypatch)
    data = create("cifar100", tmp_path)
    stored = pickle.loads((tmp_path / "cifar-100-python" / "train").read_bytes())["data"]
    pixels = torch.cat(list(data.train.batches([torch.arange(NUM_TRAIN)], torch.device("cpu"))))
    assert torch.equal(pixels, torch.from_numpy(stored).view(-1, 3, 32, 32))
    assert pixels.is_contiguous()
    assert (data.name, data.num_classes, len(data.test)) == ("cifar100", 10, NUM_TEST)


def test_archive_placed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path, monkeypatch)
    assert len(create("cifar100", tmp_path).train) == NUM_TRAIN


def test_damaged_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz is damaged .*delete it"):
        create("cifar100", tmp_path)
    assert not (tmp_path / "cifar-100-python").exists()


def test_interrupted_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path, monkeypatch)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            create("cifar100", tmp_path)
    assert not list(tmp_path.glob("cifar-100-python*partial*"))
    assert len(create("cifar100", tmp_path).train) == NUM_TRAIN


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        create("cifar100", tmp_path)
    for part in ("python -m benchmark prepare cifar100", cifar100.ARCHIVE.url, cifar100.ARCHIVE.md5, str(tmp_path)):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_damaged_file_is_named_and_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tiny(tmp_path, monkeypatch)
    path = tmp_path / "cifar-100-python" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    def loaded(*_: object, **__: object) -> None:
        pytest.fail("a damaged pickle was loaded")

    monkeypatch.setattr(pickle, "load", loaded)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        create("cifar100", tmp_path)


def test_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path, monkeypatch)
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(UserError, match="meta is missing"):
        create("cifar100", tmp_path)


def test_pickles_are_read_once_and_mapped_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path, monkeypatch)
    first = create("cifar100", tmp_path, cache=tmp_path / "elsewhere")
    monkeypatch.setattr(cifar100, "_content", lambda *_: pytest.fail("read again"))
    again = create("cifar100", tmp_path, cache=tmp_path / "elsewhere")
    assert again.digest == first.digest
    assert again.classes == first.classes
    assert torch.equal(again.train.targets, first.train.targets)
    monkeypatch.undo()
    with pytest.raises(UserError):  # other files, of other checksums, are not these
        create("cifar100", tmp_path, cache=tmp_path / "elsewhere")
