"""Weights that others trained are imported strictly, and nothing in their files is executed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmark.datasets.base import DataSet, MemoryImages
from benchmark.errors import UserError
from benchmark.train import teacher_import, teacher_store
from benchmark.train.lane import create_network, weights_of
from benchmark.train.teacher_import import import_folder

CPU = torch.device("cpu")


def published(folder: Path, name: str, classes: int = 10, seed: int = 3) -> torch.nn.Module:
    network = create_network("resnet8", classes, 16, seed=seed)
    (folder / name).mkdir(parents=True)
    torch.save({"epoch": 240, "model": network.state_dict()}, folder / name / "ckpt_epoch_240.pth")
    return network


def test_published_checkpoint_folders_are_imported(tmp_path: Path, digits: DataSet) -> None:
    network = published(tmp_path / "cifar_teachers", "resnet8_vanilla")
    (tmp_path / "cifar_teachers" / "something_else").mkdir()
    torch.save({"model": {}}, tmp_path / "cifar_teachers" / "resnet8_vanilla" / "ckpt_epoch_80.pth")
    manifests = [*import_folder(tmp_path / "cifar_teachers", tmp_path / "store", digits, CPU)]
    assert [manifest.model for manifest in manifests] == ["resnet8"]
    found = teacher_store.find(tmp_path / "store", digits, "resnet8", "any recipe")
    assert found is not None
    loaded = teacher_store.load_network(found[1].file(found[0]), digits)
    assert torch.equal(loaded.state_dict()["conv1.weight"], network.state_dict()["conv1.weight"])
    assert found[1].test_top1 == teacher_store.measure(loaded, digits, CPU)


def test_checkpoints_that_do_not_fit_or_are_damaged_are_refused(tmp_path: Path, digits: DataSet) -> None:
    published(tmp_path / "a", "resnet8_vanilla", classes=100)
    with pytest.raises(UserError, match=r"do not fit resnet8 with 10 classes.*fc.weight"):
        list(import_folder(tmp_path / "a", tmp_path / "store", digits, CPU))
    published(tmp_path / "b", "resnet8_vanilla")
    path = tmp_path / "b" / "resnet8_vanilla" / "ckpt_epoch_240.pth"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"ckpt_epoch_240.pth cannot be read"):
        list(import_folder(tmp_path / "b", tmp_path / "store", digits, CPU))
    torch.save({"optimizer": 1}, path)
    with pytest.raises(UserError, match='holds no weights under the key "model"'):
        list(import_folder(tmp_path / "b", tmp_path / "store", digits, CPU))
    with pytest.raises(UserError, match="no published checkpoint under"):
        list(import_folder(tmp_path / "nothing", tmp_path / "store", digits, CPU))
    assert not (tmp_path / "store").exists()


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was_run",)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"conv1.weight": Runs()}}, "cannot be read: Weights only load failed"),
        ({"model": {}}, "holds no weights"),
        ({"model": {"conv1.weight": [1.0]}}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({"model": {1: torch.zeros(1)}}, "do not fit resnet8"),
        ({"model": {"conv1.weight": torch.zeros(16, 3, 3, 3).to_sparse()}}, "conv1.weight is no plain tensor"),
        ({"model": {"conv1.weight": torch.zeros(1, dtype=torch.complex64)}}, "conv1.weight is no plain tensor"),
        ({"model": {"conv1.weight": torch.tensor([float("nan")])}}, "conv1.weight has values that are not finite"),
        (b"", "cannot be read: EOFError|cannot be read: Ran out of input"),
        (b"PK\3\4 no archive", "cannot be read: "),
        (b"\x80\x02" + b"]" * 100, "cannot be read: "),
        (None, "is not a file"),
    ],
    ids=range(12),
)
def test_hostile_checkpoints_are_refused(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "published" / "resnet8_vanilla" / "ckpt_epoch_240.pth"
    path.parent.mkdir(parents=True)
    if content is None:
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        list(import_folder(tmp_path / "published", tmp_path / "store", digits, CPU))
    assert [one.name for one in tmp_path.iterdir()] == ["published"]


def test_one_network_has_one_file(tmp_path: Path, digits: DataSet) -> None:
    """Torch's hub may hold both weights of resnet50; SDD's tables use one of them."""
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
        (tmp_path / name).write_bytes(b"weights")
    said = r"resnet50-0676ba61.pth and resnet50-11ad3fa6.pth are both weights of torchvision/resnet50"
    with pytest.raises(UserError, match=said):
        list(import_folder(tmp_path, tmp_path / "store", digits, CPU))
    assert not (tmp_path / "store").exists()


def test_what_does_not_fit_keeps_nothing_else_away(tmp_path: Path, digits: DataSet) -> None:
    published(tmp_path / "a", "resnet20_vanilla")  # of a resnet8
    published(tmp_path / "a", "resnet8_vanilla")
    imported = []
    with pytest.raises(UserError, match="do not fit resnet20"):
        imported.extend(import_folder(tmp_path / "a", tmp_path / "store", digits, CPU))
    assert [manifest.model for manifest in imported] == ["resnet8"]


def torchvisions(folder: Path, digits: DataSet, ending: str) -> Path:
    """Write weights of a torchvision network for digits; those in a .pth have their checksum in its name."""
    network = create_network("torchvision/shufflenet_v2_x0_5", digits.num_classes, digits.image_size, seed=3)
    folder.mkdir()
    if ending == "safetensors":
        path = folder / "torchvision-shufflenet_v2_x0_5.safetensors"
        save_file(weights_of(network), path)
        return path
    path = folder / "new.pth"
    torch.save(network.state_dict(), path)
    return path.rename(folder / f"shufflenet_v2_x0_5-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_torchvisions_files_are_imported(tmp_path: Path, digits: DataSet, ending: str) -> None:
    few = replace(digits, test=MemoryImages(digits.test.pixels_NCHW[:50], digits.test.targets[:50]))  # type: ignore[attr-defined]
    path = torchvisions(tmp_path / "hub", digits, ending)
    (tmp_path / "hub" / "notes.txt").write_text("not weights")
    (tmp_path / "hub" / "unknown-01234567.pth").write_text("of no network")
    (manifest,) = import_folder(tmp_path / "hub", tmp_path / "store", few, CPU)
    assert (manifest.model, manifest.origin) == ("torchvision/shufflenet_v2_x0_5", str(path))
    assert teacher_store.find(tmp_path / "store", digits, "torchvision/shufflenet_v2_x0_5", "any recipe") is not None
    assert teacher_import.beside_torchvisions(manifest) == ""
    if ending == "pth":
        path.rename(path.with_name("shufflenet_v2_x0_5-01234567.pth"))
        with pytest.raises(UserError, match=r"shufflenet_v2_x0_5-01234567\.pth is damaged: its sha256 begins with"):
            list(import_folder(tmp_path / "hub", tmp_path / "store", few, CPU))


@pytest.mark.parametrize(
    ("name", "dataset", "top1", "said"),
    [
        ("resnet50-0676ba61.pth", "imagenet", 76.05, "; torchvision gives 76.13%"),
        ("resnet50-0676ba61.pth", "imagenet", 71.0, "; torchvision gives 76.13%: WARNING, they differ"),
        ("resnet50-0676ba61.pth", "imagenet[60000 images]", 71.0, "; torchvision gives 76.13%"),
        ("resnet50-11ad3fa6.pth", "imagenet", 80.3, "; torchvision gives 80.86%, of images whose shorter side is 232"),
        ("resnet50-0676ba61.pth", "cub200", 71.0, ""),
        ("resnet50-00000000.pth", "imagenet", 71.0, ""),
    ],
)
def test_the_accuracy_is_set_beside_torchvisions(name: str, dataset: str, top1: float, said: str) -> None:
    manifest = teacher_store.Manifest(
        model="torchvision/resnet50", dataset=dataset, data_digest="d", num_classes=1000, image_size=224, checksum="c",
        test_top1=top1, origin=f"/weights/{name}", git_commit="g", git_dirty=False, device="cpu", versions={},
        created="now",
    )  # fmt: skip
    found = teacher_import.beside_torchvisions(manifest)
    assert found.startswith(said)
    assert ("WARNING" in found) == ("WARNING" in said)
    assert bool(found) == bool(said)
