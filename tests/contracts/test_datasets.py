"""What every registered data set keeps, on a tiny copy that `tiny` of its test file writes."""

from __future__ import annotations

import contextlib
import importlib.util
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import datasets
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError

TESTS = Path(__file__).resolve().parents[1] / "benchmark" / "datasets"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set never downloads unless it is told to."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", opened)


@pytest.fixture(params=datasets.names())
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """Name and options of a data set whose tiny copy is in `tmp_path`; an embedded one needs none."""
    path = TESTS / f"test_{request.param}.py"
    if not path.exists():
        with contextlib.suppress(UserError):
            if datasets.create(request.param, tmp_path).embedded:
                return request.param, {}
        pytest.fail(f"data set '{request.param}' has no tiny copy: write `tiny(root, monkeypatch)` in {path}")
    spec = importlib.util.spec_from_file_location(f"tiny_{request.param}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return request.param, module.tiny(tmp_path, monkeypatch)


def test_splits_are_what_they_say(made: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, options = made
    data = datasets.create(name, tmp_path, **options)
    assert isinstance(data, DataSet)
    assert data.name == name or data.name.startswith(f"{name}[")
    # published values are compared with runs on images of the registered name
    assert data.name != name or not data.is_part
    assert set(datasets.choices(name)) <= set(datasets.options(name))
    assert len(set(data.classes)) == data.num_classes
    assert len(data.digest) == 64
    assert data.source
    assert all(0 < mean < 1 for mean in data.mean)
    assert all(0 < std < 1 for std in data.std)
    for images in (data.train, data.test):
        assert images.targets.dtype == torch.int64
        assert len(images.targets) == len(images)
        assert images.targets.unique().tolist() == list(range(data.num_classes))
        order = [torch.tensor([1, 0]), torch.tensor([1])]
        first, second = images.batches(order, torch.device("cpu"))
        assert first.dtype == torch.uint8
        assert first.shape[:2] == (2, 3)
        assert min(first.shape[2:]) >= data.image_size
        assert torch.equal(first[:1], second)


def test_digest_is_a_function_of_the_data(made: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, options = made
    assert datasets.create(name, tmp_path, **options).digest == datasets.create(name, tmp_path, **options).digest


@pytest.mark.parametrize("name", datasets.names())
def test_missing_data_is_a_user_error(name: str, tmp_path: Path) -> None:
    """Unless the data set is embedded: then it says so, and is never missing."""
    embedded = False
    with contextlib.suppress(UserError):
        embedded = datasets.create(name, tmp_path).embedded
    if not embedded:
        with pytest.raises(UserError, match=name):
            datasets.create(name, tmp_path)


def test_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'cifar100'"):
        datasets.create("cifar10", tmp_path)
