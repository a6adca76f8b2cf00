"""Runs folders to pack and merge, trained once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.bundles.pack import Packed
from benchmark.datasets.base import DataSet
from benchmark.execution import engines
from benchmark.execution.engines.inline import InlineEngine
from tests.benchmark.bundles.stores import ELSEWHERE, Store


@dataclass(frozen=True)
class Home:
    """A folder with finished runs, an open one and one that failed, and a bundle of all with students' weights."""

    store: Store
    packed: Packed
    #: the same runs, trained without an interruption
    whole: Store


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.registry._entries, "local", InlineEngine)


def _new(folder: Path, store: Path, data: DataSet) -> Store:
    (folder / "runs").mkdir(parents=True)
    shutil.copy(store, folder / "runs")
    return Store(folder, data)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, _tracking_store: Path, digits: DataSet) -> Home:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.registry._entries, "local", InlineEngine)
        store = _new(folder / "a", _tracking_store, digits)
        store.train(seeds=1)
        for run in store.tracker.runs_with(store.survey().signatures()):
            store.tracker.tag(run.run_id, ELSEWHERE)
        store.fail()
        shutil.copytree(folder / "a", folder / "whole")
        whole = Store(folder / "whole", digits)
        whole.train(seeds=2)
        store.train(seeds=2, until=1)
        return Home(store, store.pack(with_students=True), whole)


@pytest.fixture
def new_store(tmp_path: Path, _tracking_store: Path, digits: DataSet) -> Callable[[str], Store]:
    """Make a runs folder in which nothing is tracked."""
    return lambda name: _new(tmp_path / name, _tracking_store, digits)
