"""Downloads appear whole and checked; a failure says where to get the file and where to put it."""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from benchmark.datasets import create
from benchmark.datasets.download import fetch
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
