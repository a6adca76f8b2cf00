"""Every kind of image becomes the 8-bit RGB that people expect, or is refused by name."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.datasets.image_files import MAX_PIXELS, decode
from benchmark.errors import UserError

SIDE = 16
RAMP = np.linspace(0, 63_960, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
#: four quarters: red, green, blue, white
QUARTERS = np.zeros((SIDE, SIDE, 3), np.uint8)
QUARTERS[:8, :8, 0] = QUARTERS[:8, 8:, 1] = QUARTERS[8:, :8, 2] = 255
QUARTERS[8:, 8:] = 255
PICTURE = Image.fromarray(QUARTERS)


def decoded(path: Path) -> NDArray[np.int64]:
    """The pixels, (H, W, 3), at the size of the file."""
    return decode(path, SIDE).transpose(1, 2, 0).astype(np.int64)


def png(depth: int, colour: int, row: bytes) -> bytes:
    """Write a PNG of equal rows, of kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    data = zlib.compress((b"\0" + row) * SIDE)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path, name: str) -> None:
    """They were clipped to white: a mean of 254 for this ramp."""
    Image.fromarray(RAMP).save(tmp_path / name)
    assert np.abs(decoded(tmp_path / name) - RAMP[:, :, None] / 257).max() <= 1


def test_sixteen_bit_colours_are_scaled_by_their_range(tmp_path: Path) -> None:
    row = np.linspace(0, 65535, SIDE * 3).astype(">u2")
    (tmp_path / "rgb.png").write_bytes(png(16, 2, row.tobytes()))
    assert np.abs(decoded(tmp_path / "rgb.png") - row.reshape(1, SIDE, 3) / 257).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (RAMP.astype(np.int32), "its pixels are 32-bit integers, whose range is not known"),
        ((RAMP / 65535).astype(np.float32), "its pixels are floats, whose range is not known"),
    ],
    ids=["int32", "float32"],
)
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, pixels: Any, reason: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match=rf"cannot decode .*deep\.tif \({reason}: convert them to 8 or 16 bits"):
        decode(tmp_path / "deep.tif", SIDE)


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "P", 0),
        ("a.png", "RGBA", 0),
        ("a.tif", "CMYK", 0),
        ("a.jpg", "CMYK", 12),  # Adobe's inverted CMYK; JPEG blurs colours
        ("a.jpg", "RGB", 60),
        ("a.bmp", "RGB", 0),
        ("A.PNG", "RGB", 0),
        ("a.webp", "RGB", 40),
    ],
)
def test_colours_stay_what_they_are(tmp_path: Path, name: str, mode: str, tolerance: int) -> None:
    PICTURE.convert(mode).save(tmp_path / name)
    inner = np.r_[2:6, 10:14]  # away from the edges, which JPEG blurs
    difference = np.abs(decoded(tmp_path / name) - QUARTERS)[np.ix_(inner, inner)]
    assert difference.max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_is_grey(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.where(QUARTERS[:, :, 0] > 0, 255, 0).astype(np.uint8)).convert(mode)
    grey.save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png") == QUARTERS[:, :, :1]).all()


def transparent(kind: str, path: Path) -> None:
    """Write a picture whose red quarter is fully transparent, in one of PNG's ways."""
    alpha = Image.fromarray(np.where(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 16 < 8, 0, 255).astype(np.uint8))
    if kind == "RGBA":
        picture = PICTURE.convert("RGBA")
        picture.putalpha(alpha)
        picture.save(path)
    elif kind == "LA":
        Image.merge("LA", (Image.new("L", (SIDE, SIDE), 0), alpha)).save(path)
    elif kind == "P":
        two = Image.fromarray((np.asarray(alpha) > 0).astype(np.uint8))
        two.putpalette([0, 0, 0, 0, 0, 0])
        two.save(path, transparency=0)
    else:
        Image.merge("RGB", (alpha, alpha, alpha)).save(path, transparency=(0, 0, 0))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "one colour"])
def test_what_is_transparent_is_white(tmp_path: Path, kind: str) -> None:
    """Viewers show it so; what lies under it, often black, is not meant to be seen."""
    transparent(kind, tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png")[:, :8] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_exif_sets_images_upright(tmp_path: Path, orientation: int, name: str) -> None:
    """What a camera stores turned is shown upright; what undoes the turn is written down here on its own."""
    stored = {
        1: QUARTERS,
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.transpose(1, 0, 2),
        6: QUARTERS.transpose(1, 0, 2)[::-1],
        7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
        8: QUARTERS.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
    inner = np.r_[3:5, 11:13]
    difference = np.abs(decoded(tmp_path / name) - QUARTERS)[np.ix_(inner, inner)]
    assert difference.max() <= (100 if name == "a.jpg" else 0)


def test_deep_pixels_are_set_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(RAMP[::-1, ::-1])).save(tmp_path / "a.png", exif=exif)
    assert np.abs(decoded(tmp_path / "a.png") - RAMP[:, :, None] / 257).max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decoded(tmp_path / "a.jpg").shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_of_several_frames_or_pages_the_first_counts(tmp_path: Path, name: str) -> None:
    red, blue = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue"))
    red.save(tmp_path / name, save_all=True, append_images=[blue, blue])
    assert np.abs(decoded(tmp_path / name) - [255, 0, 0]).max() <= 3


def test_a_single_pixel_fills_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png") == [10, 20, 30]).all()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_named_and_not_decoded(tmp_path: Path, side: int) -> None:
    """10,000 a side is what Pillow only warns of, and 20,000 what it refuses."""
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "PNG")
    header = struct.pack(">4sII", b"IHDR", side, side) + content.getvalue()[24:29]
    bomb = content.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + content.getvalue()[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(UserError, match=rf"bomb\.png has .*more than {MAX_PIXELS:,}.*: make it smaller"):
        decode(tmp_path / "bomb.png", SIDE)


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for its writer, for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    for name, reason in {
        "pipe.jpg": "is not a regular file",
        "device.jpg": "is not a regular file",
        "folder.jpg": "is not a regular file",
        "empty.jpg": "is empty",
        "none.jpg": "cannot decode",
    }.items():
        refused: list[str] = []

        def attempt(path: Path = tmp_path / name, refused: list[str] = refused) -> None:
            try:
                decode(path, SIDE)
            except UserError as error:
                refused.append(str(error))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(timeout=20)
        assert refused and reason in refused[0], name


def test_only_formats_of_images_are_tried(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for this one, whatever its ending says."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"cannot decode .*a\.jpg \(cannot identify image file"):
        decode(tmp_path / "a.jpg", SIDE)
