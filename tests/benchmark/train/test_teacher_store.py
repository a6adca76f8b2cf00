"""Stored teachers: verified when stored, checked when loaded."""

from __future__ import annotations

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
