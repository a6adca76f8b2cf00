"""Images in files: decoded once into a verified, memory-mapped cache, or streamed when they are too many.

The cache is `<name>-<side>-<key>.npy`, whose key names the source: relative path and size of every file.

Every image becomes 8-bit RGB:

| image | pixels |
| --- | --- |
| grey, 1 bit, palette | the same value or the palette's colour in all three channels |
| 16 bits per channel | 0 to 65,535 becomes 0 to 255 |
| CMYK, also as Adobe inverts it, and YCbCr | converted to RGB; colour profiles are ignored |
| transparent (RGBA, grey with alpha, a palette's or one colour) | laid on white |
| turned or mirrored by EXIF | upright, as viewers show it |
| animated or of several pages | the first frame or page |
| 32-bit integers, floats, CIELAB | refused: their range or colour is not known |
| over 89 million pixels; empty; a pipe, device or folder | refused |
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.datasets.base import MemoryImages
from benchmark.datasets.mapped import Content, mapped
from benchmark.errors import UserError
from benchmark.files import say
from benchmark.process import available_cores

#: raise it whenever decoding changes, so that older caches are not used
DECODER = 3
#: how loader processes start, where this is known: they compute nothing on a device
_FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
REPLACE = "replace this file from the source of the data set"
#: images decoded between two writes, few enough to take little memory
CHUNK = 256


#: formats that Pillow may try, whatever a file is called; among its others are some that start programs
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")
#: more pixels are taken for a decompression bomb: Pillow's own limit, at which it warns
MAX_PIXELS = 89_478_485
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # an error of ours
_ORIENTATION = 0x0112
#: EXIF's orientations, and what sets them upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: str | Path, side: int) -> NDArray[np.uint8]:
    """Decode an image to uint8 (3, side, side): RGB, resized bilinearly (antialiased) without keeping its aspect.

    Decoded by Pillow, which knows every format and refuses truncated files, and resized by torchvision's v2, which
    takes half of Pillow's time; their pixels differ by one level at most.

    Raises:
        UserError: naming the file, when it is missing, truncated, not an image, or of pixels without a known range.
    """
    from torchvision.transforms.v2.functional import resize  # slow to import

    with faults_named(path):
        pixels_HWC = read(path)
        resized: Tensor = resize(torch.from_numpy(pixels_HWC).permute(2, 0, 1), [side, side], antialias=True)
    return resized.contiguous().numpy()


@contextlib.contextmanager
def faults_named(path: str | Path) -> Iterator[None]:
    """Turn every error of a decoder into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has more than {MAX_PIXELS:,} pixels: make it smaller") from error
    except PermissionError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): make it readable") from error
    except Exception as error:  # every decoder raises exceptions of its own
        reason = str(error).replace(str(path), "it") or type(error).__name__
        raise UserError(f"cannot decode {path} ({reason}): {REPLACE}") from error


def read(path: str | Path, upright: bool = True) -> NDArray[np.uint8]:
    """Read an image as uint8 (H, W, 3); see `rgb`. Raises errors of many kinds, which `faults_named` makes one."""
    size_of(path)
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            shape = f"{image.width:,} x {image.height:,}"
            raise UserError(f"{path} has {shape} pixels, more than {MAX_PIXELS:,} in all: make it smaller")
        return rgb(image, upright)


def rgb(image: Image.Image, upright: bool = True) -> NDArray[np.uint8]:
    """Convert an open image to uint8 (H, W, 3), as the table above says; as it is stored where not `upright`.

    Raises ValueError for an unknown range.
    """
    image.load()
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1)) if upright else None
    except Exception:  # broken EXIF: Pillow's parser raises errors of many kinds, and viewers show the image as it is
        turn = None
    # 16-bit PGM arrives as 32-bit integers, 16-bit PNG does in older versions of Pillow
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
    if turn is not None:
        image = image.transpose(turn)
    if is_16_bit:
        grey_HW = (np.asarray(image).astype(np.int64) + 128) // 257
        return np.repeat(grey_HW.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(f"its pixels are {kind}, whose range is not known: convert them to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return np.array(image.convert("RGB"))


def size_of(path: str | Path) -> int:
    """Size of a regular file in bytes.

    Raises:
        UserError: for a file that is empty, and for a pipe, a device or a folder: opening it could wait for ever.
        OSError: when there is none.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file: take it out of the folder")
    if not status.st_size:
        raise UserError(f"{path} is empty: {REPLACE}")
    return status.st_size


def fingerprint(paths: Sequence[Path], side: int) -> str:
    """Compute the sha256 over the relative path and size of every file, and the way they are decoded.

    Raises UserError that names the first missing file and how many are missing.
    """
    top = os.path.commonpath([path.parent for path in paths])
    total = hashlib.sha256(f"decoder {DECODER}, side {side}\n".encode())
    missing = []
    for path in paths:
        try:
            size = size_of(path)
        except OSError:
            missing.append(path)
            continue
        total.update(os.fsencode(f"{os.path.relpath(path, top)}\t{size}\n"))
    if missing:
        raise UserError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} images are): unpack the data again")
    return total.hexdigest()


def shared(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Find the files of `second` whose bytes a file of `first` has too, as (of first, of second).

    Files are told apart by size, then by their last 4 kB; only the others are read whole. Files that cannot be read
    are left to the decoder. Raises UserError for one that is empty or no regular file.
    """

    def tail(path: Path) -> object:
        with path.open("rb") as file:
            file.seek(-min(4096, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()

    def whole(path: Path) -> object:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    sides: tuple[dict[Path, tuple[object, ...]], ...] = (dict.fromkeys(first, ()), dict.fromkeys(second, ()))
    for mark in (size_of, tail, whole):
        for side in sides:
            for path in list(side):
                try:
                    side[path] = (*side[path], mark(path))
                except OSError:
                    del side[path]
        both = set(sides[0].values()) & set(sides[1].values())
        sides = tuple({path: marks for path, marks in side.items() if marks in both} for side in sides)
    of_marks = {marks: path for path, marks in reversed(sides[0].items())}
    return [(of_marks[marks], path) for path, marks in sides[1].items()]


class FileImages:
    """Images decoded from files on every request, by `num_workers` processes (0: this one; None: one per core)."""

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
        for pixels_BCHW in decoded_by(self._files, [index_B.tolist() for index_B in order], self._num_workers, device):
            yield pixels_BCHW.to(device, non_blocking=True)


class _Files(Dataset[Any]):
    """Batches of decoded files; an error is returned as its message, which a worker's traceback would bury."""

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


def decoded_by(files: Dataset[Any], pieces: list[Any], num_workers: int, device: torch.device) -> Iterator[Any]:
    """Yield what `files` makes of every piece, in order, by processes that decode ahead; 0: in this process.

    Raises UserError for a piece of which it made a message.
    """
    import torchvision.transforms.v2  # noqa: F401  imported here, not once in every loader process

    loader: DataLoader[Any] = DataLoader(
        files,
        batch_sampler=pieces,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        # a spawned worker would spawn these too, and each would import torch again, for every epoch
        multiprocessing_context=_FORK if num_workers else None,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # the loader draws a seed, which would advance the global stream
    )
    for made in loader:
        if isinstance(made, str):
            raise UserError(made)
        yield made


def _outlive_signals(worker: int) -> None:
    """Let a loader process ignore what stops a whole group of processes: it ends when its trainer has saved.

    A process that dies fails the lanes, which would not be saved where they stand.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_is(batch: Any) -> Any:
    return batch


def cached(paths: Sequence[Path], targets: Tensor, side: int, cache_folder: Path, name: str) -> MemoryImages:
    """Decode all images to uint8 (N, 3, side, side), memory-mapped from a cache that is made when needed.

    Raises:
        UserError: for an image that is missing or cannot be decoded, and when the cache cannot be written.
    """
    source = fingerprint(paths, side)
    made = Content(
        shape=(len(paths), 3, side, side),
        pieces=lambda: _decoded(paths, side),
        about={"pillow": PIL.__version__},
        doing=f"decoding {len(paths)} images once",
    )
    pixels_NCHW, _ = mapped(cache_folder / f"{name}-{side}-{source[:16]}.npy", source, lambda: made, shape=made.shape)
    return MemoryImages(pixels_NCHW, targets, source)


def _decoded(paths: Sequence[Path], side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the decoded images in order, with a progress bar."""
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(available_cores())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(paths))
            for start in range(0, len(paths), CHUNK):
                for pixels in pool.map(lambda path: decode(path, side), paths[start : start + CHUNK]):
                    yield pixels
                    progress.advance(task)
    finally:
        pool.shutdown(cancel_futures=True)


def images_from_files(
    paths: Sequence[Path],
    targets: Tensor,
    side: int,
    cache_folder: Path,
    name: str,
    memory_gb: float | None = None,
    num_workers: int | None = None,
) -> MemoryImages | FileImages:
    """Map the images from a cache when they fit into `memory_gb` (None: half of the free memory), else stream them."""
    size = len(paths) * 3 * side * side / 1e9
    budget = available_memory_gb() / 2 if memory_gb is None else memory_gb
    if size <= budget:
        return cached(paths, targets, side, cache_folder, name)
    say(f"{name}: {size:.1f} GB decoded do not fit into {budget:.1f} GB of memory, so every epoch decodes the files")
    return FileImages(paths, targets, side, num_workers)


def available_memory_gb() -> float:
    """Memory in GB that this process may still take: free on the machine, and within its control group's limit."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        kilobytes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())["MemAvailable"]
        free = 1024 * int(kilobytes.split()[0])
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free / 1e9


def digest_of_splits(*splits: MemoryImages | FileImages) -> str:
    """Compute the sha256 over the splits' fingerprints and targets: the same whether they are cached or streamed."""
    total = hashlib.sha256()
    for images in splits:
        total.update(images.fingerprint.encode())
        total.update(images.targets.numpy().data)
    return total.hexdigest()
