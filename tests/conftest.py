"""Small things to train on, and what is made once for many tests."""

from __future__ import annotations

import functools
import gc
import importlib.util
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import distillers
import models
from benchmark import datasets
from benchmark.config import Data, Recipe, RunConfig
from benchmark.datasets.base import DataSet
from benchmark.execution import child
from benchmark.plan import suite
from benchmark.train.messages import CohortJob, LaneJob, TeacherFile
from tests.made_once import curves_are_drawn_once, new_stores_are_copies, new_stores_are_made
from tests.postgres import postgresql, postgresql_server

#: fixtures of files of their own
__all__ = [
    "curves_are_drawn_once",
    "new_stores_are_copies",
    "new_stores_are_made",
    "postgresql",
    "postgresql_server",
]

# what the caller's shell has set for commands is not meant for those that are tested
for name in [*os.environ]:
    if name.startswith(("BENCH_", "MLFLOW_TRACKING_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_")):
        del os.environ[name]
# the tests use every core already, also those of the processes that they start
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
gc.disable()  # until all tests are imported


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through it again and again."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` or `ray` run where there is one, and are skipped by name where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("ray") is not None and importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `cluster`: Ray is not installed")


#: a node of a Ray cluster with room for one worker
RAY_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
#: a suite as YAML holds it
SMALL_SUITE: dict[str, Any] = {
    "title": "small",
    "data": {"name": "digits"},
    "recipe": {"epochs": 10, "lr": 0.05, "milestones": [4, 8]},
    "students": {"resnet8_half": {"lr": 0.04}},
    "seeds": 2,
    "methods": {"vanilla": {}, "kd": {"kd": {"temperature": 3}}, "sdd_kd": {"recipe": {"lr": 0.03}}},
    "pairs": [
        {
            "teacher": "resnet8",
            "student": "resnet8_half",
            "parameters": {"kd": {"temperature": 5}},
            "methods": {"sdd_kd": {"sdd": {"beta": 3}}},
        },
        {"teacher": "resnet20", "student": "resnet8_half"},
    ],
    "profiles": {"smoke": {"seeds": 1, "recipe": {"epochs": 1}, "data": {"num_train": 64}}},
}


@pytest.fixture(autouse=True)
def _threads_are_put_back() -> Iterator[None]:
    """The next test computes with one thread again: other tests use every core, and a copy of several waits forever."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _digits_are_rendered_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands in this process share one set of images; a worker that they start finds it in its cache.

    The set lies in pytest's own cache, where the next session finds it; another digits.py makes another.
    """
    factory = datasets.registry.get("digits")
    kept = getattr(pytestconfig, "cache", None)  # None with `-p no:cacheprovider`
    folder = tmp_path_factory.mktemp("digits") if kept is None else kept.mkdir("digits")

    @functools.cache
    def made() -> DataSet:
        return factory(Path(), cache=folder, render=True)

    @functools.wraps(factory)
    def shared(root: Path, cache: str | Path | None = None, render: bool = False) -> DataSet:
        found = made()
        if cache is not None and render:
            Path(cache).mkdir(parents=True, exist_ok=True)
            for file in (*folder.glob("digits-*.npy"), *folder.glob("digits-*.json")):
                if not (place := Path(cache) / file.name).exists():
                    place.symlink_to(file)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.registry._entries, "digits", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def _workers_are_copies() -> Iterator[None]:
    """Processes that a command in this process starts to train are copies of one that has imported what they need.

    Those of a command in a process of its own begin anew, as everywhere; so do all where CUDA must not be copied.
    """
    if torch.cuda.is_available():
        yield
        return
    copies = multiprocessing.get_context("forkserver")
    imported = ["torch._dynamo", "benchmark.execution.engines.local", "benchmark.execution.parallel"]
    copies.set_forkserver_preload(imported)
    start = child.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "CONTEXT", copies)
        patch.setattr(child, "start", lambda work, *given: start(_with_environment, dict(os.environ), work, *given))
        yield


def _with_environment(variables: dict[str, str], work: Callable[..., None], *given: Any) -> None:
    """Do the work of a process that was started under other variables than the one that it is a copy of."""
    os.environ.clear()
    os.environ.update(variables)
    work(*given)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    """The embedded data set."""
    return datasets.create("digits", Path())


@pytest.fixture(scope="session")
def _tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new tracking store, which takes MLflow a second to make."""
    from benchmark.tracking import Tracker

    folder = tmp_path_factory.mktemp("store")
    Tracker(folder)
    return folder / "mlflow.db"


@pytest.fixture
def runs_folder(tmp_path: Path, _tracking_store: Path) -> Path:
    """A runs folder in which nothing is tracked yet; its store is a copy."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(_tracking_store, folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of one small node, which this process has joined; for tests of the xdist group `ray`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    noticed_at_once = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}
    for is_last in (False, True):  # Ray waits 30 s for its own processes, however busy the machine is
        cluster = Cluster()
        try:
            cluster.add_node(**RAY_NODE, no_monitor=True, include_log_monitor=False, _system_config=noticed_at_once)
            break
        except Exception:
            cluster.shutdown()
            if is_last:
                raise
    try:
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(autouse=True)
def _ray_tests_share_one_cluster(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("ray") is not None:
        request.getfixturevalue("ray_cluster")


@pytest.fixture
def plugins_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test's plugins register is gone after it."""
    for registry in (distillers.registry, models.registry, datasets.registry, suite.registry):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.setattr("benchmark.registry._origins", {})
    monkeypatch.setattr("benchmark.plugins._loaded", {})


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Obey the permissions of files, also as root."""
    from tests import capabilities

    if os.geteuid() != 0:
        yield
        return
    before = capabilities.effective()
    capabilities.set_effective(before & ~capabilities.PAST_PERMISSIONS)
    try:
        yield
    finally:
        capabilities.set_effective(before)


def make_config(method: str = "vanilla", *, student: str = "resnet8_half", **changes: Any) -> RunConfig:
    """A run of two epochs on 80 digits."""
    recipe = {"epochs": 2, "batch_size": 32, "clip_norm": 40.0, "milestones": (1,), **changes.pop("recipe", {})}
    distiller = distillers.create(method, **changes.pop("parameters", {}))
    fields: dict[str, Any] = {
        "data": Data(name="digits", num_train=80, num_test=60),
        "student": student,
        "teacher": "resnet8" if distiller.needs_teacher else None,
        "method": method,
        "parameters": distiller.parameters(),
        "recipe": Recipe(**recipe),
        "repetition": 1,
        **changes,
    }
    return RunConfig(**fields)


def make_job(
    folder: Path, configs: dict[str, RunConfig], teacher: TeacherFile | None = None, device: str = "cpu"
) -> CohortJob:
    """A cohort whose lanes' files lie in the folder; the keys stand for signatures."""
    if any(config.data.name == "digits" for config in configs.values()):
        datasets.create("digits", folder, cache=folder / "cache", render=True)  # a worker finds its images there
    lanes = tuple(
        LaneJob(name, config, folder / name / "checkpoint", folder / name / "student.safetensors")
        for name, config in configs.items()
    )
    return CohortJob("cohort", lanes, teacher, folder, folder / "cache", device, threads=1)


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory, digits: DataSet) -> TeacherFile:
    """A stored teacher: an untrained resnet8, which is as good as any for equality."""
    from benchmark.train import teacher_store
    from benchmark.train.lane import create_network, weights_of

    network = create_network("resnet8", digits.num_classes, digits.image_size, seed=7)
    folder, manifest = teacher_store.store(
        tmp_path_factory.mktemp("teachers"),
        digits,
        "resnet8",
        weights_of(network),
        test_top1=10.0,
        device="a CPU",
        origin="trained",
        signature="0" * 16,
    )
    return manifest.file(folder)
