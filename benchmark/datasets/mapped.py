"""Arrays of pixels in verified, memory-mapped files, so that parallel processes share one copy in memory.

A cache is two files, `<name>.npy` with uint8 pixels and a `.json` manifest next to it, which names the source and has
the sha256 of the `.npy`; a cache that does not match is reported and rebuilt. Files appear whole or not at all, and
parallel processes make them only once.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import UserError
from benchmark.files import locked, say, written_whole

OTHER_PLACE = "name another folder with `--set data.cache=<folder>`"


class Content(NamedTuple):
    """The ingredients of a cache."""

    shape: tuple[int, ...]
    #: yields the pixels in order, in pieces of any size
    pieces: Callable[[], Iterable[NDArray[np.uint8]]]
    #: further fields of the manifest
    about: dict[str, Any]
    #: message to the user while the cache is made
    doing: str


def mapped(
    cache: Path,
    source: str,
    make: Callable[[], Content],
    lists: Mapping[str, type] = MappingProxyType({}),
    shape: tuple[int, ...] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Map the (N, 3, H, W) pixels of a cache into memory and read its manifest; `make` is called to make the cache.

    A cache is made again unless its pixels have this `shape` (None: any), and its manifest these `lists` of one type;
    lists of whole numbers have one per image.

    Raises:
        UserError: when the cache cannot be written.
    """
    if _fault(cache, source, lists, shape) is not None:
        with locked(cache, OTHER_PLACE):
            if fault := _fault(cache, source, lists, shape):  # another process may have made it meanwhile
                if cache.exists():
                    say(f"{cache} {fault}; making it again")
                _build(cache, source, make())
    pixels = np.load(cache, mmap_mode="c")  # copy on write: torch wants a writable array, but the file must not change
    return torch.from_numpy(pixels), json.loads(cache.with_suffix(".json").read_text())


def _fault(cache: Path, source: str, lists: Mapping[str, type], shape: tuple[int, ...] | None) -> str | None:
    """Explain why the cache cannot be used; None when every byte is as it was written."""
    try:
        manifest, size = json.loads(cache.with_suffix(".json").read_text()), cache.stat().st_size
        if manifest["source"] != source:
            return "belongs to other files"
        if size != manifest["bytes"]:
            return f"is damaged: {size} bytes where {manifest['bytes']} were written"
        with cache.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                return "is damaged: its sha256 is not the one in its manifest"
        return _content_fault(np.load(cache, mmap_mode="r"), manifest, lists, shape)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError) as error:
        return f"is damaged or has no readable manifest ({error})"


def _content_fault(
    pixels: NDArray[Any], manifest: dict[str, Any], lists: Mapping[str, type], shape: tuple[int, ...] | None
) -> str | None:
    """Explain which part of a cache with the right checksum is not what it was made for."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or shape not in (None, pixels.shape):
        return f"is damaged: {pixels.dtype} {pixels.shape} are no such images"
    for key, kind in lists.items():
        values = manifest[key]
        if not all(type(value) is kind for value in values) or (kind is int and len(values) != len(pixels)):
            return f"is damaged: the {key} of its manifest are not those of {len(pixels)} images"
    return None


def _build(cache: Path, source: str, content: Content) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": content.shape})
    size = len(header.getvalue()) + int(np.prod(content.shape))
    if (free := shutil.disk_usage(cache.parent).free) < size:
        raise UserError(
            f"{cache} needs {size / 1e9:.1f} GB where {free / 1e9:.1f} GB are free: free some space, or {OTHER_PLACE}"
        )
    say(f"{content.doing} into {cache} ({size / 1e6:,.0f} MB)")
    try:
        with written_whole(cache) as file:
            sha256 = _write(file, header.getvalue(), content.pieces())
        manifest = {"sha256": sha256, "bytes": size, "shape": content.shape, "source": source, **content.about}
        with written_whole(cache.with_suffix(".json")) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise UserError(f"cannot write {cache} ({error}): free some space, or {OTHER_PLACE}") from error


def _write(file: BinaryIO, header: bytes, pieces: Iterable[NDArray[np.uint8]]) -> str:
    """Write header and pixels in order, and return their sha256."""
    total = hashlib.sha256(header)
    file.write(header)
    for pixels in pieces:
        total.update(pixels.data)
        file.write(pixels.data)
    return total.hexdigest()
