"""Image files of every format and mode, with changed bytes."""

from __future__ import annotations

import contextlib
import io
import os
import random
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torchvision.transforms.v2.functional  # noqa: F401  its import must not count as time of the first input
from PIL import Image

from benchmark.datasets.image_files import decode
from tests.fuzz import nasty

SHARE = 2.0
SIDE = 8


@cache
def seeds() -> tuple[bytes, ...]:
    """Small images of every format and mode that Pillow writes."""
    pixels = np.random.RandomState(0).randint(0, 256, (12, 10, 3), dtype=np.uint8)
    picture, made = Image.fromarray(pixels), []
    for name in ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "TGA", "ICO", "PCX", "EPS"):
        for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"):
            for options in ({}, {"save_all": True, "append_images": [picture]}, {"compression": "tiff_lzw"}):
                buffer = io.BytesIO()
                try:
                    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 250) if mode == "I;16" else None
                    (deep or picture.convert(mode)).save(buffer, name, **options)
                except (OSError, ValueError, KeyError):
                    continue
                made.append(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    for name in ("JPEG", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, name, exif=exif)
        made += [buffer.getvalue()] * 5
    return tuple(dict.fromkeys(made))


def generate(rng: random.Random) -> bytes:
    content = rng.choice(seeds())
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    return nasty.changed_bytes(rng, content)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what libtiff prints to the process's stderr."""
    usual, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(usual, 2)
        os.close(usual)
        os.close(nothing)


def check(case: bytes, folder: Path) -> None:
    path = folder / "image.jpg"
    path.write_bytes(case)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        pixels = decode(path, SIDE)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, SIDE, SIDE))
