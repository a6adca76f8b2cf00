"""The view cache: the numbers of the plain loop, and nothing lost or believed that should not be."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from benchmark import datasets
from benchmark.config import Recipe
from benchmark.datasets import augment
from benchmark.datasets.base import Augmentation, DataSet, MemoryImages
from benchmark.train import loop, teacher_store
from benchmark.train.batches import TrainStream
from benchmark.train.heads import STORED_SCALES, Request
from benchmark.train.messages import Event, Note, TeacherFile
from benchmark.train.teacher import BatchTeacher
from benchmark.train.view_cache import CachedTeacher, CacheRefused, Views, open_caches
from tests.conftest import make_config, make_job
from tests.processes import exit_code, start

CPU = torch.device("cpu")
METHODS = ("vanilla", "kd", "sdd_dkd", "sdd_mlkd")
REQUEST = Request("weak", STORED_SCALES, "from_4x4")


class Counting(BatchTeacher):
    """Counts the images its network sees."""

    num_seen = 0

    def cells(self, x_BCHW: Tensor) -> list[Tensor]:
        self.num_seen += len(x_BCHW)
        return super().cells(x_BCHW)


@pytest.fixture
def opened(tmp_path: Path, teacher_file: TeacherFile, digits: DataSet) -> Callable[..., CachedTeacher]:
    """Opens the cache of one folder, as a new process would."""

    def opens(say: Callable[[str], None] = print, data: DataSet = digits, **changes: object) -> CachedTeacher:
        options = {"limit_gb": None, "storage": "fp16", "precision": "fp32", **changes}
        network = teacher_store.load_network(teacher_file, data)
        storage, precision = options["storage"], options["precision"]
        teacher = Counting(network, [REQUEST], CPU, precision, 16, storage)  # type: ignore[arg-type]
        limit = options["limit_gb"]
        return open_caches(teacher, teacher_file, data, 100, tmp_path, limit, say)  # type: ignore[arg-type]

    return opens


def stream(data: DataSet) -> TrainStream:
    return TrainStream(data, data.train, torch.arange(100), Recipe(batch_size=32), 3, ("weak",), CPU)


def cells_of(cached: CachedTeacher, data: DataSet, epoch: int = 1) -> Tensor:
    return torch.cat([cells for (cells,) in cached.epoch(stream(data), epoch)])


def seen(cached: CachedTeacher) -> int:
    assert isinstance(cached.teacher, Counting)
    return cached.teacher.num_seen


def test_every_view_has_one_number_and_comes_back(digits: DataSet) -> None:
    wide = replace(digits, augmentation=Augmentation(padding=2, flip=True))
    views = Views(wide)
    assert views.num_views == 5 * 5 * 2
    assert Views(digits).num_views == 25
    numbers = torch.arange(views.num_views)
    crops = views.crops(numbers)
    assert torch.equal(views.number(crops), numbers)
    assert len({tuple(one) for one in crops.stacked().T.tolist()}) == views.num_views
    drawn = augment.draw_crops(wide.augmentation, 500, views.source, 16, seed=0, epoch=1, view="weak")
    again = views.crops(views.number(drawn))
    assert torch.equal(again.stacked(), drawn.stacked())


def test_what_is_read_is_what_the_teacher_says_of_the_batch(
    opened: Callable[..., CachedTeacher], digits: DataSet
) -> None:
    cached = opened(storage="fp32")
    for _ in range(2):  # computed, then read
        for (cells,), batch in zip(cached.epoch(stream(digits), 1), stream(digits).epoch(1), strict=True):
            (expected,) = cached.teacher.cells(batch.views["weak"])
            torch.testing.assert_close(cells, expected, rtol=1e-5, atol=1e-5)


def test_a_view_is_computed_once_for_all_runs_and_epochs(opened: Callable[..., CachedTeacher], digits: DataSet) -> None:
    first = opened()
    cells = cells_of(first, digits)
    assert cells.shape == (100, 16, 10)
    assert cells.dtype == torch.float16
    # 100 views in batches of one size: two full ones
    assert (seen(first), first.num_stored()) == (128, 100)
    later = opened()
    assert torch.equal(cells_of(later, digits), cells)
    assert seen(later) == 0
    cells_of(later, digits, epoch=2)
    assert later.num_stored() > 100


def test_rows_do_not_depend_on_the_order_of_filling(
    opened: Callable[..., CachedTeacher], digits: DataSet, tmp_path: Path
) -> None:
    """Visited or filled up front, in whatever company: at most the last bit of fp16."""
    few = replace(digits, train=MemoryImages(digits.train.pixels_NCHW[:100], digits.train.targets[:100]))  # type: ignore[attr-defined]
    visited = opened(data=few)
    expected = cells_of(visited, few)
    for path in visited.caches[0].folder.iterdir():
        path.unlink()
    filled = opened(data=few)
    advanced: list[int] = []
    filled.fill(advanced.append)
    assert filled.num_stored() == filled.num_rows == sum(advanced) == 2500
    torch.testing.assert_close(cells_of(filled, few), expected, rtol=1e-3, atol=1e-3)


def test_another_key_is_another_cache(opened: Callable[..., CachedTeacher], digits: DataSet) -> None:
    other = replace(digits, digest="0" * 64)
    folders = {
        cached.caches[0].folder
        for cached in (opened(), opened(storage="fp32"), opened(precision="bf16"), opened(data=other), opened())
    }
    assert len(folders) == 4


def flip_a_bit(cells_NX: NDArray[np.uint16], row: int, other: int) -> None:
    cells_NX[row, 7] ^= 1


def swap_words(cells_NX: NDArray[np.uint16], row: int, other: int) -> None:
    cells_NX[row, :2] = cells_NX[row, 1::-1]


def move_a_row(cells_NX: NDArray[np.uint16], row: int, other: int) -> None:
    cells_NX[row] = cells_NX[other]


@pytest.mark.parametrize("damage", [flip_a_bit, swap_words, move_a_row])
def test_a_damaged_row_is_computed_again_and_said(
    damage: Callable[[NDArray[np.uint16], int, int], None], opened: Callable[..., CachedTeacher], digits: DataSet
) -> None:
    expected = cells_of(opened(), digits)
    cache = opened().caches[0]
    folder, size = cache.folder, cache.shape.num_cells * cache.shape.num_classes
    content = np.memmap(folder / "cells.bin", np.uint16, "r+", shape=(cache.shape.num_rows, size))
    row, other = np.flatnonzero(content.any(axis=1))[:2]
    damage(content, row, other)
    content.flush()
    said: list[str] = []
    mended = opened(said.append)
    assert torch.equal(cells_of(mended, digits), expected)
    assert said == [f"view cache {folder}: 1 damaged rows are computed again"]
    assert seen(mended) == 64
    quiet: list[str] = []
    cells_of(opened(quiet.append), digits)
    assert quiet == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: os.truncate(folder / "cells.bin", 1000), "cells.bin has 1000 bytes"),
        (lambda folder: (folder / "marks.bin").unlink(), "No such file"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "Expecting property name"),
        (lambda folder: (folder / "manifest.json").write_text(json.dumps({"format": 0})), "another teacher or form"),
    ],
)
def test_a_damaged_cache_is_detected_and_made_anew(
    damage: Callable[[Path], None], reason: str, opened: Callable[..., CachedTeacher], digits: DataSet
) -> None:
    expected = cells_of(opened(), digits)
    damage(opened().caches[0].folder)
    said: list[str] = []
    anew = opened(said.append)
    assert len(said) == 1
    assert reason in said[0]
    assert anew.num_stored() == 0
    assert torch.equal(cells_of(anew, digits), expected)


def test_a_cache_that_does_not_fit_is_refused_with_the_sizes(opened: Callable[..., CachedTeacher]) -> None:
    # 100 images x 25 views x (16 cells x 10 classes x 2 bytes + 8)
    with pytest.raises(CacheRefused, match=r"takes 0\.00082 GB \(25 views of 100 images\), --cache-gb allows 0\.0005"):
        opened(limit_gb=0.0005)
    opened(limit_gb=0.00083)


def fill_until_killed(folder: Path, file: TeacherFile) -> None:
    """Fill a cache and end by SIGKILL after 3072 views."""
    data = datasets.create("digits", Path())
    request = Request("weak", (1, 2, 4), "map")
    teacher = BatchTeacher(teacher_store.load_network(file, data), [request], CPU, "fp32", 16, "fp16")
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= 3072:
            os.kill(os.getpid(), signal.SIGKILL)

    open_caches(teacher, file, data, 100, folder, None, print).fill(advance)


@pytest.mark.processes
def test_a_fill_that_is_killed_goes_on(
    opened: Callable[..., CachedTeacher], tmp_path: Path, teacher_file: TeacherFile
) -> None:
    assert exit_code(start(fill_until_killed, tmp_path, teacher_file)) == -signal.SIGKILL
    cached = opened()
    assert cached.num_stored() == 3072
    rows = np.arange(3000, 3100)
    before = seen(cached)
    cached.rows(rows)
    assert seen(cached) - before == 64  # 28 rows were missing


def trained(
    folder: Path, teacher: TeacherFile, data: DataSet, cache: Path, **changes: object
) -> dict[str, dict[str, Tensor]]:
    limit = changes.pop("cache_gb", None)
    configs = {method: make_config(method, **changes) for method in METHODS}
    job = replace(make_job(folder, configs, teacher), cache=cache, cache_gb=limit)  # type: ignore[arg-type]
    events: list[Event] = []
    loop.train_cohort(job, events.append, data=data)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [note.partition(": ")[2] for note in notes] == (
        [] if limit is None else ["the teacher is run on every batch, and rounded as the cache would"]
    )
    return {lane.signature: load_file(lane.weights) for lane in job.lanes}


def test_training_from_the_cache_equals_training_beside_the_teacher(
    tmp_path: Path, teacher_file: TeacherFile, digits: DataSet
) -> None:
    """Filled as visited, read again, and refused for want of room: one set of numbers, up to rounding of batches."""
    stored = {"teacher_cache": "fp32"}
    visited = trained(tmp_path / "visited", teacher_file, digits, tmp_path / "cache", **stored)
    again = trained(tmp_path / "again", teacher_file, digits, tmp_path / "cache", **stored)
    refused = trained(tmp_path / "refused", teacher_file, digits, tmp_path / "none", cache_gb=0.0, **stored)
    plain = trained(tmp_path / "plain", teacher_file, digits, tmp_path / "plain")
    for method in METHODS:
        for name, value in visited[method].items():
            assert torch.equal(value, again[method][name]), (method, name)
            torch.testing.assert_close(value, refused[method][name], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value, plain[method][name], rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, plain["vanilla"][name]) for name, value in visited["vanilla"].items())


def test_fp16_moves_little_and_is_another_run(tmp_path: Path, teacher_file: TeacherFile, digits: DataSet) -> None:
    rounded = trained(tmp_path / "fp16", teacher_file, digits, tmp_path / "cache", teacher_cache="fp16")
    plain = trained(tmp_path / "plain", teacher_file, digits, tmp_path / "plain")
    moved = [
        float((value - plain["kd"][name]).norm() / plain["kd"][name].norm())
        for name, value in rounded["kd"].items()
        if value.is_floating_point() and value.ndim > 1
    ]
    assert 0 < max(moved) < 1e-2
    signatures = {make_config("kd", teacher_cache=storage).signature("d", "t") for storage in ("none", "fp16", "fp32")}
    assert len(signatures) == 3
    alone = {make_config("vanilla", teacher_cache=storage).signature("d", None) for storage in ("none", "fp16")}
    assert len(alone) == 1
