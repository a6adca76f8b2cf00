"""A teacher's logits for every view of every training image, kept on disk and shared by all later runs.

Crops of a padded image and their mirror images are finitely many (9 x 9 x 2 = 162 for CIFAR's padding of 4), fewer than
the epochs of a usual training. A cache is a folder of three files: `cells.bin`, one row of (S, K) logits per image and
view (a sparse file: rows never computed take no space); `marks.bin`, a checksum per row, 0 where none is stored;
`manifest.json`, the facts that the rows depend on. Rows are independent: an interrupted fill resumes, several processes
may fill at once, and a row that does not match its mark is computed again.

Shape letters: N images, V views of an image, B rows, S stored cells, K classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import files
from benchmark.config import Storage
from benchmark.datasets import augment
from benchmark.datasets.base import DataSet, MemoryImages
from benchmark.errors import UserError
from benchmark.registry import origin_of
from benchmark.train.batches import TrainStream
from benchmark.train.heads import Layout
from benchmark.train.messages import TeacherFile
from benchmark.train.teacher import STORED_VIEW, BatchTeacher

#: raise it whenever a change makes the rows or their marks differ
FORMAT = 2
#: images per teacher pass when rows are computed: always the same number, however many rows are asked for
FILL_BATCH = {"cpu": 64, "cuda": 512}
#: rows looked up at once
CHUNK_ROWS = 1024
_DTYPE: dict[Storage, type[np.generic]] = {"fp16": np.float16, "fp32": np.float32}


@dataclass(frozen=True)
class Shape:
    """Size of a cache."""

    num_images: int
    num_views: int
    num_cells: int
    num_classes: int
    storage: Storage

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return self.num_cells * self.num_classes * np.dtype(_DTYPE[self.storage]).itemsize

    @property
    def num_rows(self) -> int:
        """Number of rows, stored or not."""
        return self.num_images * self.num_views


class ViewCache:
    """Memory-mapped rows of one teacher's cells in one layout."""

    def __init__(self, folder: Path, key: Mapping[str, object], shape: Shape, say: Callable[[str], None]) -> None:
        """Open the cache; make it when missing, and again when damaged or of another form (reported in one line).

        Raises:
            UserError: when the folder cannot be written.
        """
        self.folder, self.shape = folder, shape
        with files.locked(folder, "name another folder with --runs, or leave the cache off"):
            if (fault := _fault(folder, key, shape)) is not None:
                if folder.exists():
                    say(f"view cache {folder} {fault}: making it again")
                    shutil.rmtree(folder)
                _create(folder, key, shape)
        cells, marks = _files(folder, shape)
        self._cells = np.memmap(
            cells, _DTYPE[shape.storage], "r+", shape=(shape.num_rows, shape.num_cells * shape.num_classes)
        )
        self._marks = np.memmap(marks, np.uint64, "r+", shape=(shape.num_rows,))

    def read(self, row_B: NDArray[np.int64]) -> tuple[NDArray[np.generic], NDArray[np.bool_], int]:
        """Read rows, (B, S * K), a mask of the good ones, (B,), and the number of stored but damaged ones."""
        cells_BX = self._cells[row_B]
        marks_B = self._marks[row_B]
        stored_B = marks_B != 0
        good_B = stored_B & (marks_B == _marks(row_B, cells_BX))
        return cells_BX, good_B, int((stored_B & ~good_B).sum())

    def write(self, row_B: NDArray[np.int64], cells_BX: NDArray[np.generic]) -> None:
        """Store rows; the mark follows the row, so that a kill in between leaves the row unmarked or detectable."""
        self._cells[row_B] = cells_BX
        self._marks[row_B] = _marks(row_B, cells_BX)

    def missing(self, row_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the rows that were never stored, (B,); damaged rows count as stored."""
        return np.asarray(self._marks[row_B] == 0)

    def num_stored(self) -> int:
        """Count the stored rows."""
        return int(np.count_nonzero(self._marks))


def _marks(row_B: NDArray[np.int64], cells_BX: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Compute a mark per row, (B,), of the row's CRC-32 and its place; it is never 0."""
    crc_B = np.fromiter(map(zlib.crc32, cells_BX.view(np.uint8)), np.uint64, len(cells_BX))
    place_B = (row_B.astype(np.uint64) * np.uint64(2) + np.uint64(1)) & np.uint64(0xFFFFFFFF)
    return crc_B << np.uint64(32) | place_B


def _files(folder: Path, shape: Shape) -> dict[Path, int]:
    """Sizes in bytes of the rows' file and the marks' file, in this order."""
    return {folder / "cells.bin": shape.num_rows * shape.row_bytes, folder / "marks.bin": 8 * shape.num_rows}


def _fault(folder: Path, key: Mapping[str, object], shape: Shape) -> str | None:
    """Explain why the cache cannot be used; None when it can."""
    try:
        if json.loads((folder / "manifest.json").read_text()) != key:
            return "is of another teacher or form"
        for path, size in _files(folder, shape).items():
            if path.stat().st_size != size:
                return f"is damaged: {path.name} has {path.stat().st_size} bytes where {size} belong"
    except (OSError, ValueError) as error:
        return f"is damaged: {error}"
    return None


def _create(folder: Path, key: Mapping[str, object], shape: Shape) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, size in _files(folder, shape).items():
            with path.open("wb") as file:
                file.truncate(size)
    except OSError as error:
        raise UserError(f"cannot make the view cache {folder} ({error}): free some space, or leave it off") from error
    files.write(folder / "manifest.json", json.dumps(key, indent=1).encode())


class Views:
    """The views of an image, numbered: all its crops and flips."""

    def __init__(self, data: DataSet) -> None:
        assert isinstance(data.train, MemoryImages)
        height, width = data.train.pixels_NCHW.shape[2:]
        #: height and width of the images that are cropped
        self.source = (height, width)
        spare = 2 * data.augmentation.padding - data.image_size + 1
        self.num_tops, self.num_lefts = height + spare, width + spare
        self.num_flips = 2 if data.augmentation.flip else 1

    @property
    def num_views(self) -> int:
        """Number of views of an image, V."""
        return self.num_tops * self.num_lefts * self.num_flips

    def number(self, crops: augment.Crops) -> Tensor:
        """Compute each crop's number, (N,), on the CPU."""
        place_N = crops.top_N * self.num_lefts + crops.left_N
        return place_N * self.num_flips + crops.flip_N.long() if self.num_flips == 2 else place_N

    def crops(self, number_N: Tensor) -> augment.Crops:
        """Find the crops with the given numbers."""
        place_N, flip_N = number_N // self.num_flips, number_N % self.num_flips
        return augment.Crops(place_N // self.num_lefts, place_N % self.num_lefts, flip_N.bool())


class CachedTeacher:
    """A `BatchTeacher` read through its caches, for the weak view; missing rows are computed and stored."""

    def __init__(
        self, teacher: BatchTeacher, caches: list[ViewCache], data: DataSet, say: Callable[[str], None]
    ) -> None:
        assert isinstance(data.train, MemoryImages)
        self.teacher, self.caches, self.data, self._say = teacher, caches, data, say
        self.views = Views(data)
        self._pixels_NCHW = data.train.pixels_NCHW
        self._normalize = augment.Normalize(data.mean, data.std, teacher.device)
        self._said_damage = False

    def epoch(self, stream: TrainStream, epoch: int, skipped: int = 0) -> Iterator[list[Tensor]]:
        """Yield the stored cells of an epoch's batches on the device, without the first `skipped`.

        They are (B, S, K) for each layout.
        """
        order_N = stream.order(epoch)
        crops = stream.crops(epoch, STORED_VIEW, self.views.source)
        row_N = (order_N * self.views.num_views + self.views.number(crops)).numpy()
        size = stream.batch_size
        steps = max(1, CHUNK_ROWS // size)
        for first in range(skipped, stream.num_batches, steps):
            last = min(first + steps, stream.num_batches)
            chunk = [self._on_device(cells) for cells in self.rows(row_N[first * size : last * size])]
            for start in range(0, (last - first) * size, size):
                yield [cells[start : start + size] for cells in chunk]

    def rows(self, row_B: NDArray[np.int64]) -> list[Tensor]:
        """Read the cells of the given rows, (B, S, K) for each layout, on the CPU; missing rows are computed."""
        found = [cache.read(row_B) for cache in self.caches]
        if (damaged := sum(count for _, _, count in found)) and not self._said_damage:
            self._said_damage = True
            self._say(f"view cache {self.caches[0].folder}: {damaged} damaged rows are computed again")
        need = np.flatnonzero(~np.logical_and.reduce([good for _, good, _ in found]))
        if len(need):
            # the same view may come twice in a chunk
            unique, back = np.unique(row_B[need], return_inverse=True)
            for cache, (cells_BX, _, _), made in zip(self.caches, found, self._compute(unique), strict=True):
                cache.write(unique, made)
                cells_BX[need] = made[back]
        return [
            torch.from_numpy(cells_BX).view(len(row_B), cache.shape.num_cells, cache.shape.num_classes)
            for cache, (cells_BX, _, _) in zip(self.caches, found, strict=True)
        ]

    def fill(self, advance: Callable[[int], None]) -> None:
        """Store every view of every image; `advance` receives the number of rows of each chunk.

        Stored rows are skipped, so that an interrupted fill resumes where it was.
        """
        for start in range(0, self.num_rows, CHUNK_ROWS):
            row_B = np.arange(start, min(start + CHUNK_ROWS, self.num_rows))
            missing_B = np.logical_or.reduce([cache.missing(row_B) for cache in self.caches])
            if missing_B.any():
                self.rows(row_B[missing_B])
            advance(len(row_B))

    @property
    def num_rows(self) -> int:
        """Number of views of all images of the training set."""
        return len(self.data.train) * self.views.num_views

    def num_stored(self) -> int:
        """Count the stored views, in the emptiest of the caches."""
        return min(cache.num_stored() for cache in self.caches)

    def _compute(self, row_M: NDArray[np.int64]) -> list[NDArray[np.generic]]:
        """Run the teacher on the given rows (at least one), in batches of one size; the last batch is padded."""
        size = FILL_BATCH[self.teacher.device.type]
        made: list[list[Tensor]] = [[] for _ in self.caches]
        for start in range(0, len(row_M), size):
            part = torch.from_numpy(row_M[start : start + size])
            full = torch.cat([part, part[-1:].expand(size - len(part))])
            for cells, kept in zip(self.teacher.cells(self._images(full)), made, strict=True):
                kept.append(cells[: len(part)].cpu())
        return [torch.cat(kept).flatten(1).numpy() for kept in made]

    def _images(self, row_B: Tensor) -> Tensor:
        crops = self.views.crops(row_B % self.views.num_views)
        pixels_BCHW = self._pixels_NCHW[row_B // self.views.num_views].to(self.teacher.device)
        data = self.data
        crops_3B = crops.stacked().to(self.teacher.device)
        return self._normalize(augment.crop_and_flip(pixels_BCHW, crops_3B, data.augmentation.padding, data.image_size))

    def _on_device(self, cells_BSK: Tensor) -> Tensor:
        if self.teacher.device.type != "cuda":
            return cells_BSK
        return cells_BSK.pin_memory().to(self.teacher.device, non_blocking=True)


class CacheRefused(UserError):
    """A view cache cannot serve here; the message says why."""


def open_caches(
    teacher: BatchTeacher,
    file: TeacherFile,
    data: DataSet,
    num_used: int,
    folder: Path,
    limit_gb: float | None,
    say: Callable[[str], None],
) -> CachedTeacher:
    """Open the teacher's caches under `folder`, and make those that are missing.

    `num_used` images of the training set are used; their views must fit into `limit_gb`, or else half of the free disk.

    Raises:
        CacheRefused: when the images are streamed, or the views do not fit.
    """
    if not isinstance(data.train, MemoryImages):
        raise CacheRefused(f"no view cache for {data.name}, whose images are streamed from files")
    views = Views(data)
    folder.mkdir(parents=True, exist_ok=True)
    keys = [_key(teacher, layout, file, data, views) for layout in teacher.layouts]
    folders = [folder / _name(file.model, key) for key in keys]
    shapes = [
        Shape(len(data.train), views.num_views, layout.num_cells, data.num_classes, teacher.storage)
        for layout in teacher.layouts
    ]
    need_gb = sum(num_used * views.num_views * (shape.row_bytes + 8) for shape in shapes) / 1e9
    taken_gb = sum(map(_taken, folders)) / 1e9
    allowed_gb = shutil.disk_usage(folder).free / 2e9 + taken_gb if limit_gb is None else limit_gb
    if need_gb > allowed_gb:
        bound = "half of the free disk is" if limit_gb is None else "--cache-gb allows"
        raise CacheRefused(
            f"a view cache of {file.model} takes {need_gb:.3g} GB ({views.num_views} views of {num_used:,} images),"
            f" {bound} {allowed_gb:.3g} GB"
        )
    caches = [ViewCache(path, key, shape, say) for path, key, shape in zip(folders, keys, shapes, strict=True)]
    return CachedTeacher(teacher, caches, data, say)


def _key(teacher: BatchTeacher, layout: Layout, file: TeacherFile, data: DataSet, views: Views) -> dict[str, object]:
    """Facts that the rows depend on."""
    # a plugin's code may change while weights and images stay
    origins = origin_of("model", file.model), origin_of("data set", data.name.partition("[")[0])
    plugins = {"plugins": [str(origin) for origin in origins if origin is not None]} if any(origins) else {}
    return {
        **plugins,
        "format": FORMAT,
        "teacher": file.model,
        "teacher_checksum": file.checksum,
        "teacher_precision": teacher.precision,
        "data_digest": data.digest,
        "views": [views.num_tops, views.num_lefts, views.num_flips],
        "padding": data.augmentation.padding,
        "num_cells": layout.num_cells,
        "cells": hashlib.sha256(layout.cells_SP.cpu().numpy().tobytes()).hexdigest(),
        "storage": teacher.storage,
    }


def _name(model: str, key: Mapping[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return f"views-{model.replace('/', '-')}-{digest}"


def _taken(folder: Path) -> int:
    """Bytes that a folder's files take on disk, without holes."""
    return sum(512 * path.stat().st_blocks for path in folder.glob("*"))
