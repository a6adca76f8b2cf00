"""Archives known by their checksum: downloaded or placed by hand, checked first, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from benchmark.errors import UserError
from benchmark.files import locked, say, written_whole

#: a tar archive of images, unpacked, is about as large as packed; one that grows more is a trap
MOST_GROWTH = 50


def check(path: Path, md5: str, way_out: str) -> None:
    """Raise UserError when the file is missing or its md5 differs, naming the file and the way out."""
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing: {way_out}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, _md5).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {way_out}") from error
    if found != md5:
        raise UserError(f"{path} is damaged (md5 {found}, expected {md5}): {way_out}")


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)  # the only checksum that the owners publish


def fetch(url: str, destination: Path, md5: str) -> None:
    """Download `url` to `destination`, which appears only when it is whole and has the expected md5.

    An existing file is checked, not downloaded again.

    Raises:
        UserError: when the download or the check fails, with where to get the file, where to put it and its checksum.
    """
    by_hand = f"get {url} by other means and put it at {destination} (md5 {md5})"
    with locked(destination):
        if destination.exists():
            check(destination, md5, f"delete it, or {by_hand}")
            return
        try:
            with written_whole(destination) as file:
                found = _stream(url, file, destination.name)
                if found != md5:
                    raise UserError(f"{url} arrived damaged (md5 {found}) and was deleted: try again, or {by_hand}")
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"{destination} is missing and could not be downloaded ({error}): {by_hand}") from error


def _stream(url: str, file: BinaryIO, title: str) -> str:
    """Download the address into the file, and return the content's md5."""
    request = urllib.request.Request(url, headers={"User-Agent": "sdd-benchmark"})
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    total = _md5()
    say(f"downloading {url}")
    with (
        urllib.request.urlopen(request, timeout=60) as response,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        size = response.headers.get("Content-Length")
        task = bar.add_task(title, total=int(size) if size else None)
        while chunk := response.read(1 << 20):
            total.update(chunk)
            file.write(chunk)
            bar.advance(task, len(chunk))
    return total.hexdigest()


@dataclass(frozen=True)
class Archive:
    """Source of a data set: an archive that holds one folder."""

    data_set: str
    url: str
    md5: str
    #: name of the archive under the data root
    filename: str
    #: the folder inside it, which ends up under the data root
    folder: str
    #: bytes of the archive
    size: int

    def way_out(self, root: Path) -> str:
        """Instructions for getting the data, for error messages."""
        return (
            f"download it with `python -m benchmark prepare {self.data_set}`, or where there is no network put"
            f" {self.url} at {root / self.filename} ({self.size / 1e6:,.0f} MB, md5 {self.md5})"
        )

    def unpacked(self, root: Path, download: bool) -> Path:
        """Unpack the archive under `root`, unless done, and return the folder; `download` fetches a missing archive.

        Raises:
            UserError: when there is neither folder nor archive, and for a damaged archive.
        """
        folder, archive = root / self.folder, root / self.filename
        if folder.is_dir():
            return folder
        if download:
            fetch(self.url, archive, self.md5)
        if not archive.is_file():
            raise UserError(f"{self.data_set} is not in {root}: {self.way_out(root)}")
        with locked(folder):
            if not folder.is_dir():
                check(archive, self.md5, f"delete it, then {self.way_out(root)}")
                self._unpack(archive, folder)
        return folder

    def _unpack(self, archive: Path, folder: Path) -> None:
        say(f"unpacking {archive}")
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{self.folder}.partial-") as partial:
                extract(archive, Path(partial))
                if not (Path(partial) / self.folder).is_dir():
                    raise UserError(f"cannot unpack {archive}: it has no folder {self.folder}")
                (Path(partial) / self.folder).rename(folder)
        except OSError as error:
            raise UserError(f"cannot unpack {archive} ({error}): free some space, or unpack it by hand") from error


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar archive into a folder, and nowhere else.

    Raises:
        UserError: for a damaged archive, for members that leave the folder or are neither files nor folders nor links
            inside it, and for one that grows beyond all measure; what was unpacked until then stays.
    """
    limit, seen = MOST_GROWTH * archive.stat().st_size + (1 << 20), 0

    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal seen
        seen += 512 + member.size
        if seen > limit:
            raise UserError(f"cannot unpack {archive}: it grows to over {MOST_GROWTH} times its size")
        # Pythons before 3.11.4 have no filter; every archive's checksum was verified anyway
        return tarfile.data_filter(member, path) if hasattr(tarfile, "data_filter") else member

    try:
        with tarfile.open(archive) as tar:
            tar.extraction_filter = checked
            tar.extractall(folder)
    except (UserError, OSError):
        raise
    except Exception as error:  # tarfile, gzip, bz2, lzma and zlib each raise errors of their own
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot unpack {archive}: it is damaged ({reason})") from error
