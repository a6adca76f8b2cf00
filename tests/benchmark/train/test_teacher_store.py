"""Stored teachers: verified when stored, checked when loaded, imported strictly."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train import teacher_store
from benchmark.train.lane import create_network, weights_of

CPU = torch.device("cpu")


def stored(root: Path, data: DataSet, **changes: Any) -> tuple[Path, teacher_store.Manifest]:
    network = create_network("resnet8", data.num_classes, data.image_size, seed=1)
    about = {"model": "resnet8", "origin": "trained", "signature": "a" * 16, "device": "a CPU", **changes}
    return teacher_store.store(root, data, weights=weights_of(network), test_top1=12.5, **about)


def test_what_is_stored_is_what_is_found(tmp_path: Path, digits: DataSet) -> None:
    folder, manifest = stored(tmp_path, digits)
    assert teacher_store.find(tmp_path, digits, "resnet8", "a" * 16) == (folder, manifest)
    assert manifest.test_top1 == 12.5
    network = teacher_store.load_network(manifest.file(folder), digits)
    for name, value in create_network("resnet8", 10, 16, seed=1).state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_the_checksum_is_a_function_of_the_weights(tmp_path: Path, digits: DataSet) -> None:
    checksums = {stored(tmp_path / str(number), digits)[1].checksum for number in range(5)}
    assert len(checksums) == 1


def test_networks_of_other_libraries_are_found_again(tmp_path: Path, digits: DataSet) -> None:
    network = create_network("torchvision/resnet18", 10, 32, seed=1)
    about = {"origin": "trained", "signature": "a" * 16, "device": "a CPU"}
    wide = replace(digits, image_size=32)
    teacher_store.store(tmp_path, wide, "torchvision/resnet18", weights_of(network), test_top1=1.0, **about)
    found = teacher_store.find(tmp_path, wide, "torchvision/resnet18", "a" * 16)
    assert found is not None
    teacher_store.load_weights(found[1].file(found[0]))


def test_only_teachers_of_the_same_images_and_recipe_count(tmp_path: Path, digits: DataSet) -> None:
    stored(tmp_path, digits)
    assert teacher_store.find(tmp_path, digits, "resnet8", "b" * 16) is None
    assert teacher_store.find(tmp_path, digits, "resnet20", "a" * 16) is None
    assert teacher_store.find(tmp_path, replace(digits, digest="other"), "resnet8", "a" * 16) is None


def test_imported_weights_come_before_trained_ones(tmp_path: Path, digits: DataSet) -> None:
    stored(tmp_path, digits)
    stored(tmp_path, digits, origin="published", signature=None)
    found = teacher_store.find(tmp_path, digits, "resnet8", "a" * 16)
    assert found is not None
    assert found[1].origin == "published"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_damaged_weights_are_refused(tmp_path: Path, digits: DataSet, damage: str) -> None:
    folder, manifest = stored(tmp_path, digits)
    file = manifest.file(folder)
    content = bytearray(file.path.read_bytes())
    if damage == "truncated":
        file.path.write_bytes(content[:-10])
    elif damage == "flipped":
        content[-1] ^= 1
        file.path.write_bytes(content)
    else:
        file.path.unlink()
    with pytest.raises(UserError, match=r"resnet8-a+.safetensors (are|is) (damaged|missing)"):
        teacher_store.load_network(file, digits)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, digits: DataSet) -> None:
    folder, manifest = stored(tmp_path, digits)
    path = manifest.file(folder).path.with_suffix(".json")
    for content in (path.read_bytes()[:50], b"\xff\xfe", b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"teacher manifest {path} cannot be read"):
            list(teacher_store.manifests(tmp_path))


def published(folder: Path, name: str, classes: int = 10, seed: int = 3) -> torch.nn.Module:
    network = create_network("resnet8", classes, 16, seed=seed)
    (folder / name).mkdir(parents=True)
    torch.save({"epoch": 240, "model": network.state_dict()}, folder / name / "ckpt_epoch_240.pth")
    return network


def test_published_checkpoint_folders_are_imported(tmp_path: Path, digits: DataSet) -> None:
    network = published(tmp_path / "cifar_teachers", "resnet8_vanilla")
    (tmp_path / "cifar_teachers" / "something_else").mkdir()
    manifests = teacher_store.import_folder(tmp_path / "cifar_teachers", tmp_path / "store", digits, CPU)
    assert [manifest.model for manifest in manifests] == ["resnet8"]
    found = teacher_store.find(tmp_path / "store", digits, "resnet8", "any recipe")
    assert found is not None
    loaded = teacher_store.load_network(found[1].file(found[0]), digits)
    assert torch.equal(loaded.state_dict()["conv1.weight"], network.state_dict()["conv1.weight"])
    assert found[1].test_top1 == teacher_store.measure(loaded, digits, CPU)


def test_checkpoints_that_do_not_fit_or_are_damaged_are_refused(tmp_path: Path, digits: DataSet) -> None:
    published(tmp_path / "a", "resnet8_vanilla", classes=100)
    with pytest.raises(UserError, match=r"do not fit resnet8 with 10 classes.*fc.weight"):
        teacher_store.import_folder(tmp_path / "a", tmp_path / "store", digits, CPU)
    published(tmp_path / "b", "resnet8_vanilla")
    path = tmp_path / "b" / "resnet8_vanilla" / "ckpt_epoch_240.pth"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"ckpt_epoch_240.pth cannot be read"):
        teacher_store.import_folder(tmp_path / "b", tmp_path / "store", digits, CPU)
    torch.save({"optimizer": 1}, path)
    with pytest.raises(UserError, match='holds no weights under the key "model"'):
        teacher_store.import_folder(tmp_path / "b", tmp_path / "store", digits, CPU)
    with pytest.raises(UserError, match="no published checkpoint under"):
        teacher_store.import_folder(tmp_path / "nothing", tmp_path / "store", digits, CPU)
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
        teacher_store.import_folder(tmp_path / "published", tmp_path / "store", digits, CPU)
    assert [one.name for one in tmp_path.iterdir()] == ["published"]
