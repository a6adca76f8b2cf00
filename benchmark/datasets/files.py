"""Images kept as files: each decoded once into a verified cache that is memory-mapped, or streamed when too many.

A cache is two files, `<name>-<side>-<key>.npy` with uint8 (N, 3, side, side) and a `.json` manifest beside it. The key
names the source (relative path and size of every file), the manifest carries the sha256 of the `.npy`; a cache that
does not match is named and rebuilt. Files appear whole or not at all, and processes in parallel decode once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.atomic import locked, say, written_whole
from benchmark.datasets.base import MemoryImages
from benchmark.environment import available_cores
from benchmark.errors import UserError

#: raised whenever decoding changes, so that older caches are not used
DECODER = 1
OTHER_PLACE = "name another folder with `--set data.cache=<folder>`"
#: images decoded between two writes; what is in flight stays small
CHUNK = 256


def decode(path: str | Path, side: int) -> NDArray[np.uint8]:
    """Return the image as uint8 (3, side, side): RGB, resized bilinearly (antialiased) without keeping its aspect.

    The pixels are those of torchvision's `Resize((side, side))` on a PIL image.

    Raises:
        UserError: naming the file, when it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    except Exception as error:  # every decoder raises kinds of its own
        raise UserError(f"cannot decode {path} ({error}): replace this file from the source of the data set") from error
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def fingerprint(paths: Sequence[Path], side: int) -> str:
    """Return the sha256 over relative path and size of every file, and how they are decoded.

    Raises UserError that names the first missing file and how many are missing.
    """
    top = os.path.commonpath([path.parent for path in paths])
    total = hashlib.sha256(f"decoder {DECODER}, side {side}\n".encode())
    missing = []
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError:
            missing.append(path)
            continue
        total.update(os.fsencode(f"{os.path.relpath(path, top)}\t{size}\n"))
    if missing:
        raise UserError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} images are): unpack the data anew")
    return total.hexdigest()


class FileImages:
    """Images decoded from their files each time they are asked for, by worker processes (0: in this process)."""

    def __init__(self, paths: Sequence[Path], targets: Tensor, side: int, num_workers: int | None = None) -> None:
        self.targets = targets
        self.fingerprint = fingerprint(paths, side)
        self._num_workers = available_cores() if num_workers is None else num_workers
        self._files = _Files(paths, side)

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[Tensor]:
        """Yield one (B, 3, side, side) uint8 tensor on the device for every index tensor of `order`.

        Raises UserError that names a file which cannot be decoded.
        """
        loader: DataLoader[Any] = DataLoader(
            self._files,
            batch_sampler=[index_B.tolist() for index_B in order],
            collate_fn=_as_is,
            num_workers=self._num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed, which would move the global stream
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch.to(device, non_blocking=True)


class _Files(Dataset[Any]):
    """A batch of decoded files; an error comes back as its message, which a worker's traceback would bury."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        # one array: a million str objects would be copied into every worker as their reference counts change
        self._paths = np.array([os.fsencode(path) for path in paths])
        self._side = side

    def __getitems__(self, index_B: list[int]) -> Tensor | str:
        try:
            decoded = [decode(os.fsdecode(self._paths[index]), self._side) for index in index_B]
        except UserError as error:
            return str(error)
        return torch.from_numpy(np.stack(decoded))


def _as_is(batch: Any) -> Any:
    return batch


def cached(paths: Sequence[Path], targets: Tensor, side: int, cache_folder: Path, name: str) -> MemoryImages:
    """Return all images decoded to uint8 (N, 3, side, side), memory-mapped from a cache that is made when needed.

    Raises:
        UserError: for an image that is missing or cannot be decoded, and when the cache cannot be written.
    """
    source = fingerprint(paths, side)
    cache = cache_folder / f"{name}-{side}-{source[:16]}.npy"
    shape = (len(paths), 3, side, side)
    if _fault(cache, source) is not None:
        with locked(cache, OTHER_PLACE):
            if fault := _fault(cache, source):  # another process may have made it meanwhile
                if cache.exists():
                    say(f"{cache} {fault}; decoding the images again")
                _build(paths, cache, shape, source)
    pixels = np.load(cache, mmap_mode="c")  # copy on write: torch wants a writable array, the file stays as it is
    return MemoryImages(torch.from_numpy(pixels), targets, source)


def _fault(cache: Path, source: str) -> str | None:
    """Return what keeps the cache from being used, or None when every byte is as it was written."""
    try:
        manifest, size = json.loads(cache.with_suffix(".json").read_text()), cache.stat().st_size
        if manifest["source"] != source:
            return "belongs to other files"
        if size != manifest["bytes"]:
            return f"is damaged: {size} bytes where {manifest['bytes']} were written"
        with cache.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                return "is damaged: its sha256 is not the one in its manifest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"has no readable manifest ({error})"
    return None


def _build(paths: Sequence[Path], cache: Path, shape: tuple[int, ...], source: str) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    size = len(header.getvalue()) + int(np.prod(shape))
    if (free := shutil.disk_usage(cache.parent).free) < size:
        raise UserError(
            f"{cache} needs {size / 1e9:.1f} GB where {free / 1e9:.1f} GB are free: free some space, or {OTHER_PLACE}"
        )
    say(f"decoding {len(paths)} images once into {cache} ({size / 1e9:.2f} GB)")
    try:
        with written_whole(cache) as file:
            sha256 = _decode_into(file, header.getvalue(), paths, side=shape[-1])
        manifest = {"sha256": sha256, "bytes": size, "shape": shape, "source": source, "pillow": PIL.__version__}
        with written_whole(cache.with_suffix(".json")) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise UserError(f"cannot write {cache} ({error}): free some space, or {OTHER_PLACE}") from error


def _decode_into(file: BinaryIO, header: bytes, paths: Sequence[Path], side: int) -> str:
    """Write header and decoded images in order, and return the sha256 of what was written."""
    total = hashlib.sha256(header)
    file.write(header)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(available_cores())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(paths))
            for start in range(0, len(paths), CHUNK):
                for pixels in pool.map(lambda path: decode(path, side), paths[start : start + CHUNK]):
                    total.update(pixels.data)
                    file.write(pixels.data)
                    progress.advance(task)
    finally:
        pool.shutdown(cancel_futures=True)
    return total.hexdigest()


def images_from_files(
    paths: Sequence[Path],
    targets: Tensor,
    side: int,
    cache_folder: Path,
    name: str,
    memory_gb: float | None = None,
    num_workers: int | None = None,
) -> MemoryImages | FileImages:
    """Return the images from a cache when they fit into `memory_gb` (half of what is free), else streamed."""
    size = len(paths) * 3 * side * side / 1e9
    budget = available_memory_gb() / 2 if memory_gb is None else memory_gb
    if size <= budget:
        return cached(paths, targets, side, cache_folder, name)
    say(f"{name}: {size:.1f} GB decoded do not fit into {budget:.1f} GB of memory, so every epoch decodes the files")
    return FileImages(paths, targets, side, num_workers)


def available_memory_gb() -> float:
    """Return how much memory this process may still take: what the machine has free, within its control group."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        kilobytes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())["MemAvailable"]
        free = 1024 * int(kilobytes.split()[0])
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free / 1e9


def digest_of_splits(*splits: MemoryImages | FileImages) -> str:
    """Return the sha256 over the splits' fingerprints and targets: the same whether they are cached or streamed."""
    total = hashlib.sha256()
    for images in splits:
        total.update(images.fingerprint.encode())
        total.update(images.targets.numpy().data)
    return total.hexdigest()
