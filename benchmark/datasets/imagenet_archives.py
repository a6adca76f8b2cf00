"""ImageNet's archives: checked, then unpacked into a folder per class; what was unpacked before is not done again.

A split is unpacked into `<split>.partial`, which becomes `<split>` at the end. Members are written by this module and
not by tarfile: only regular files with the names that ImageNet's have, so that none ends up elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.datasets.download import check
from benchmark.errors import UserError, shown
from benchmark.files import locked, say, write

PREPARE = "`python -m benchmark prepare imagenet`"
#: where the owners give the archives out, after a registration
SITE = "https://image-net.org/download"


class Packed(NamedTuple):
    """An archive, by the name and the md5 under which its owners give it out."""

    filename: str
    md5: str


ARCHIVES = {
    "train": Packed("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
    "val": Packed("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
}
DEVKIT = Packed("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")
TRUTH, META = (f"ILSVRC2012_devkit_t12/data/{name}" for name in ("ILSVRC2012_validation_ground_truth.txt", "meta.mat"))
_CLASS = re.compile(r"(?:\./)?(n\d{8})\.tar", re.ASCII)
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)", re.ASCII)
_VAL_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)", re.ASCII)
#: file in a partial folder that names the archive whose checksum was right
_CHECKED = ".checked"


def way_out(folder: Path, split: str) -> str:
    """Instructions for getting a split, for error messages."""
    needed = [ARCHIVES[split].filename, *([DEVKIT.filename] if split == "val" else [])]
    return f"put {' and '.join(needed)} ({SITE}, after a registration) into {folder}: {PREPARE} unpacks them"


def provide(folder: Path, split: str, may_unpack: bool) -> None:
    """Unpack a split from its archive in `folder`; a killed call resumes where it was.

    Raises:
        UserError: when there is no archive, when one is damaged or holds what it should not, when the disk is full,
            and, unless it `may_unpack`, when one is there.
    """
    archive = folder / ARCHIVES[split].filename
    if not archive.is_file():
        expected = "<wnid>/*.JPEG in imagenet/train and imagenet/val of the data folder"
        raise UserError(
            f"imagenet is not in {folder}: there is no folder {split}; expected are {expected}, or"
            f" {way_out(folder, split)}"
        )
    if not may_unpack:
        raise UserError(f"{archive} is not unpacked yet: {PREPARE} does it")
    place = folder / split
    with locked(place):
        if place.is_dir():  # another process was here meanwhile
            return
        truth = [] if split == "train" else _truth(folder)
        partial = folder / f"{split}.partial"
        with _faults_named(archive), _bar() as bar:
            _check(archive, ARCHIVES[split].md5, partial, bar)
            say(f"unpacking {archive} into {place}")
            with tarfile.open(archive, "r:") as tar:
                if split == "train":
                    _unpack_train(tar, partial, bar)
                else:
                    _unpack_val(tar, partial, truth, bar)
            (partial / _CHECKED).unlink()
            partial.rename(place)
    say(f"{place} is whole; {archive.name} is no longer needed")


@contextlib.contextmanager
def _faults_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive} ({error}): fix that, and the same command resumes where it was"
        ) from error
    except Exception as error:  # tarfile, gzip, zlib and scipy each raise errors of their own
        raise UserError(f"cannot unpack {archive}: it is damaged ({str(error) or type(error).__name__})") from error


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _check(archive: Path, md5: str, partial: Path, bar: Progress) -> None:
    """Check an archive's md5, which takes minutes, unless that was done before for this file."""
    status = archive.stat()
    mark = f"{md5} {status.st_size} {status.st_mtime_ns}"
    checked = partial / _CHECKED
    if checked.is_file() and checked.read_text() == mark:
        return
    say(f"checking {archive}")
    found = hashlib.md5(usedforsecurity=False)  # the only checksum that the owners publish
    task = bar.add_task("checking", total=status.st_size)
    with archive.open("rb") as file:
        while piece := file.read(1 << 22):
            found.update(piece)
            bar.advance(task, len(piece))
    if found.hexdigest() != md5:
        raise UserError(f"{archive} is damaged (md5 {found.hexdigest()}, expected {md5}): download it again")
    write(checked, mark.encode())


def _unpack_train(tar: tarfile.TarFile, partial: Path, bar: Progress) -> None:
    """Unpack the archive of archives: a class appears when it is whole."""
    members = [(_matched(member, _CLASS, tar)[1], member) for member in tar]
    left = [(wnid, member) for wnid, member in members if not (partial / wnid).is_dir()]
    _need(sum(member.size for _, member in left), partial)
    task = bar.add_task("unpacking", total=sum(member.size for _, member in left))
    for wnid, member in left:
        fresh = partial / f"{wnid}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        with tarfile.open(fileobj=_content(tar, member), mode="r:") as of_class:
            for image in of_class:
                name = _matched(image, _TRAIN_IMAGE, tar)[1]
                _write(fresh / name, _content(of_class, image), lambda count: bar.advance(task, count))
        fresh.rename(partial / wnid)


def _unpack_val(tar: tarfile.TarFile, partial: Path, truth: list[str], bar: Progress) -> None:
    """Unpack the images, each into the folder of its class."""
    members = [(_matched(member, _VAL_IMAGE, tar), member) for member in tar]
    if sorted(int(found[2]) for found, _ in members) != [*range(1, len(truth) + 1)]:
        raise UserError(
            f"{tar.name!s} has {len(members):,} images, and {DEVKIT.filename} the classes of {len(truth):,}"
        )
    left = []
    for found, member in members:
        place = partial / truth[int(found[2]) - 1] / found[1]
        if not (place.is_file() and place.stat().st_size == member.size):
            left.append((place, member))
    _need(sum(member.size for _, member in left), partial)
    task = bar.add_task("unpacking", total=sum(member.size for _, member in left))
    for place, member in left:
        place.parent.mkdir(exist_ok=True)
        _write(place, _content(tar, member), lambda count: bar.advance(task, count))


def _matched(member: tarfile.TarInfo, names: re.Pattern[str], tar: tarfile.TarFile) -> re.Match[str]:
    """Match a member's name. Raises UserError for another name, and for what is no regular file."""
    found = names.fullmatch(member.name)
    if found is None or not member.isreg():
        raise UserError(f"cannot unpack {tar.name!s}: {shown(member.name)} in it is no file of ImageNet")
    return found


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    return content


def _write(place: Path, content: IO[bytes], advance: Callable[[int], object]) -> None:
    """Write a file, which a kill leaves shorter than it should be."""
    with place.open("wb") as file:
        while piece := content.read(1 << 20):
            file.write(piece)
            advance(len(piece))


def _need(size: int, folder: Path) -> None:
    """Raise UserError unless so many bytes, and what file systems add to them, are free."""
    size, free = size + size // 50, shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{folder} needs {size / 1e9:.1f} GB more where {free / 1e9:.1f} GB are free: free some space, or make"
            f" {folder.parent} a link to a larger disk"
        )


def _truth(folder: Path) -> list[str]:
    """Read the WordNet id of every val image, in the images' order, from the development kit."""
    from scipy.io import loadmat  # slow to import

    archive = folder / DEVKIT.filename
    check(archive, DEVKIT.md5, way_out(folder, "val"))
    with _faults_named(archive), tarfile.open(archive, "r:gz") as tar:
        truth, meta = (_content(tar, tar.getmember(name)).read() for name in (TRUTH, META))
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not row["num_children"]}
        return [wnids[int(line)] for line in truth.split()]
