"""Images from files: decoded once, verified, whole or not at all; or streamed with the same pixels."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Resize

from benchmark.datasets import image_files, mapped
from benchmark.datasets.image_files import FileImages, cached, decode, images_from_files
from benchmark.datasets.resized_crops import CropFiles
from benchmark.errors import UserError

SIDE = 16
CPU = torch.device("cpu")
TARGETS = torch.tensor([0, 1, 0, 1, 0])


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five images of different sizes and formats."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.RandomState(0)
    names = ["a.jpg", "b.png", "c.jpg", "d.png", "e.jpg"]
    for number, name in enumerate(names):
        pixels = rng.randint(0, 256, (20 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in names]


def all_pixels(images: image_files.MemoryImages | FileImages) -> Tensor:
    return torch.cat(list(images.batches([torch.arange(3), torch.arange(3, 5)], CPU)))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_decoding_is_torchvisions_resize(tmp_path: Path, mode: str) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (30, 50, 3), dtype=np.uint8)
    path = tmp_path / "image.tiff"
    Image.fromarray(pixels).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(Resize((SIDE, SIDE))(image.convert("RGB"))).transpose(2, 0, 1)
    decoded = decode(path, SIDE)
    assert (decoded.dtype, decoded.shape, decoded.flags.c_contiguous) == (np.uint8, (3, SIDE, SIDE), True)
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # Pillow and torchvision round differently


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_text("no image"), Path.unlink])
def test_undecodable_files_are_named(paths: list[Path], damage: Callable[[Path], None]) -> None:
    damage(paths[2])
    with pytest.raises(UserError, match=r"c\.jpg.*replace this file"):
        decode(paths[2], SIDE)


def test_cache_holds_the_decoded_pixels(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    assert torch.equal(images.pixels_NCHW, torch.from_numpy(np.stack([decode(path, SIDE) for path in paths])))

    def used_again(*_: object) -> None:
        pytest.fail("a whole cache was locked or decoded again")

    monkeypatch.setattr(image_files, "decode", used_again)
    monkeypatch.setattr(mapped, "locked", used_again)  # so that it loads from a folder that cannot be written
    again = cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    assert torch.equal(again.pixels_NCHW, images.pixels_NCHW)
    again.pixels_NCHW[:] = 0
    assert cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds").pixels_NCHW.any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streamed_and_cached_are_the_same_data(paths: list[Path], tmp_path: Path, num_workers: int) -> None:
    memory = images_from_files(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    streamed = images_from_files(paths, TARGETS, SIDE, tmp_path / "none", "birds", 0, num_workers)
    assert isinstance(streamed, FileImages)
    assert not (tmp_path / "none").exists()
    assert torch.equal(all_pixels(memory), all_pixels(streamed))
    assert image_files.digest_of_splits(memory) == image_files.digest_of_splits(streamed)
    order = [torch.tensor([4, 0]), torch.tensor([4])]
    state = torch.get_rng_state()
    for left, right in zip(memory.batches(order, CPU), streamed.batches(order, CPU), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streaming_names_the_damaged_file(paths: list[Path], num_workers: int) -> None:
    truncate(paths[3])
    images = FileImages(paths, TARGETS, SIDE, num_workers)
    with pytest.raises(UserError, match=r"^cannot decode .*d\.png") as caught:
        all_pixels(images)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("kind", ["whole", "cut"])
def test_a_signal_to_all_processes_does_not_end_the_loader(paths: list[Path], kind: str) -> None:
    """The trainer is asked to stop by the same signal, and its lanes are saved after the step that they are in."""
    names = np.array([path.name.encode() for path in paths])
    images = (
        FileImages(paths, TARGETS, SIDE, 1) if kind == "whole" else CropFiles(paths[0].parent, names, TARGETS, 8, 1)
    )
    batches = images.batches([torch.arange(1)] * 40, CPU)
    next(batches)
    (loader,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(loader.pid or 0, number)
    assert len(list(batches)) == 39
    assert not multiprocessing.active_children()


def test_missing_files_are_named_and_counted(paths: list[Path], tmp_path: Path) -> None:
    paths[1].unlink()
    paths[4].unlink()
    with pytest.raises(UserError, match=r"b\.png is missing \(2 of 5 images are\)"):
        cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")


def flip_a_byte(cache: Path) -> None:
    content = bytearray(cache.read_bytes())
    content[-7] ^= 1
    cache.write_bytes(content)


def break_the_manifest(cache: Path) -> None:
    cache.with_suffix(".json").write_text('{"sha256": ')


def replace_by(pixels: np.ndarray) -> Callable[[Path], None]:
    """Write other content, and a manifest whose checksum fits it."""

    def damage(cache: Path) -> None:
        np.save(cache, pixels, allow_pickle=True)
        content, manifest = cache.read_bytes(), json.loads(cache.with_suffix(".json").read_text())
        about = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "shape": list(pixels.shape)}
        cache.with_suffix(".json").write_text(json.dumps({**manifest, **about}))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (replace_by(np.zeros((5, 3, SIDE, SIDE), np.float32)), "float32 .* are no such images"),
        (replace_by(np.zeros((4, 3, SIDE, SIDE), np.uint8)), "are no such images"),
        (replace_by(np.zeros(5, np.uint8)), "are no such images"),
        (replace_by(np.array([{"a": "pickle"}], dtype=object)), "Python objects in dtype"),
        (lambda cache: cache.with_suffix(".json").write_text("[" * 100_000), "no readable manifest"),
        (truncate, "bytes where"),
        (flip_a_byte, "its sha256"),
        (break_the_manifest, "no readable manifest"),
        (lambda cache: cache.with_suffix(".json").unlink(), "no readable manifest"),
    ],
)
def test_damaged_cache_is_named_and_made_again(
    paths: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    expected = cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds").pixels_NCHW.clone()
    (cache,) = (tmp_path / "cache").glob("*.npy")
    damage(cache)
    capsys.readouterr()
    assert torch.equal(cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds").pixels_NCHW, expected)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(str(cache))
    assert re.search(reason, first), first


def test_changed_files_get_another_cache(paths: list[Path], tmp_path: Path) -> None:
    first = cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    shutil.copy(paths[1], paths[3])
    second = cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    assert first.fingerprint != second.fingerprint
    assert torch.equal(second.pixels_NCHW[1], second.pixels_NCHW[3])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_write_leaves_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(_: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
            cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []
    assert len(cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")) == 5


def test_damaged_image_leaves_no_cache(paths: list[Path], tmp_path: Path) -> None:
    truncate(paths[4])
    with pytest.raises(UserError, match=r"e\.jpg"):
        cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_full_disk_is_said_before_decoding(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match="free some space"):
        cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds")


class Usage:
    """A full disk."""

    free = 10


def test_folder_that_cannot_be_written(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*--set data\.cache=<folder>"):
        cached(paths, TARGETS, SIDE, tmp_path / "file" / "cache", "birds")


def test_parallel_users_decode_once(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(path: Path, side: int) -> np.ndarray:
        calls[path.name] += 1
        return decode(path, side)

    monkeypatch.setattr(image_files, "decode", counted)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: cached(paths, TARGETS, SIDE, tmp_path / "cache", "birds"), range(4)))
    assert all(torch.equal(images.pixels_NCHW, made[0].pixels_NCHW) for images in made)
    assert set(calls.values()) == {1}
