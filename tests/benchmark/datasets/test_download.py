"""Downloads appear whole and checked; a failure says where to get the file and where to put it."""

from __future__ import annotations

import hashlib
import http.client
import io
import tarfile
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.datasets import create
from benchmark.datasets.download import Archive, extract, fetch
from benchmark.errors import UserError

URL = "https://example.org/birds.tgz"
CONTENT = b"birds" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Response(io.BytesIO):
    """What an opened address answers."""

    headers = Message()


class Breaks(Response):
    """A connection that breaks in the middle."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise http.client.IncompleteRead(b"", 100)
        return super().read(1000)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def opened(request: urllib.request.Request, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", opened)


def test_whole_file_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, Response(CONTENT))
    destination = tmp_path / "data" / "birds.tgz"
    fetch(URL, destination, MD5)
    assert destination.read_bytes() == CONTENT
    serve(monkeypatch, urllib.error.URLError("asked twice"))
    fetch(URL, destination, MD5)


@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError(URL, 404, "Not Found", Message(), None),
        TimeoutError("timed out"),
        Breaks(CONTENT),
        Response(CONTENT[:-1]),
    ],
    ids=["offline", "gone", "slow", "broken", "damaged"],
)
def test_failure_names_address_place_and_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    serve(monkeypatch, answer)
    destination = tmp_path / "birds.tgz"
    with pytest.raises(UserError) as caught:
        fetch(URL, destination, MD5)
    for part in (URL, str(destination), MD5):
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_damaged_file_of_the_user_is_kept(tmp_path: Path) -> None:
    destination = tmp_path / "birds.tgz"
    destination.write_bytes(b"else")
    with pytest.raises(UserError, match=r"is damaged .*delete it"):
        fetch(URL, destination, MD5)
    assert destination.read_bytes() == b"else"


@pytest.mark.parametrize("name", ["cifar100", "cub200"])
def test_data_set_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    serve(monkeypatch, urllib.error.URLError("offline"))
    with pytest.raises(UserError, match=r"could not be downloaded \(.*offline.*\): get https://"):
        create(name, tmp_path, download=True)


def member(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../outside", 3)], "outside the destination"),
        ([member("/etc/outside", 3)], None),  # the slash is taken off
        ([member("link", type=tarfile.SYMTYPE, linkname="/etc")], "absolute path"),
        ([member("link", type=tarfile.SYMTYPE, linkname="../..")], "outside the destination"),
        ([member("link", type=tarfile.LNKTYPE, linkname="../up")], "outside the destination|not found"),
        ([member("device", type=tarfile.CHRTYPE)], "special file"),
        ([member("pipe", type=tarfile.FIFOTYPE)], "special file"),
        ([member("zeros", 300 << 20)], "it grows to over 50 times its size"),
        ([member("n" * 300, 3)], "File name too long"),
    ],
    ids=["up", "absolute", "link", "link up", "hard link", "device", "pipe", "bomb", "long name"],
)
def test_hostile_archives_are_refused(tmp_path: Path, members: list[tarfile.TarInfo], message: str | None) -> None:
    archive, folder = tmp_path / "birds.tgz", tmp_path / "deep" / "birds"
    folder.mkdir(parents=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(bytes(one.size)))
    if message is None:
        extract(archive, folder)
    else:
        with pytest.raises((UserError, OSError), match=message):
            extract(archive, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds.tgz", "deep"]
    assert [path.name for path in folder.parent.iterdir()] == ["birds"]


@pytest.mark.parametrize("damage", ["truncated", "no archive", "empty"])
def test_damaged_archives_are_refused(tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "birds.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member("birds/a", 100_000), io.BytesIO(np.random.RandomState(0).bytes(100_000)))
    content = archive.read_bytes()
    changed = {"truncated": content[:-5000], "no archive": b"birds" * 1000, "empty": b""}
    archive.write_bytes(changed[damage])
    with pytest.raises(UserError, match=r"cannot unpack .*birds\.tgz: it is damaged \("):
        extract(archive, tmp_path / "birds")


def test_an_archive_without_its_folder_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "birds.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member("other"))
    source = Archive("birds", URL, hashlib.md5(archive.read_bytes()).hexdigest(), "birds.tgz", "birds", 100)
    with pytest.raises(UserError, match="it has no folder birds"):
        source.unpacked(tmp_path, download=False)
