"""Pieces: whatever is missing, damaged or foreign is named, and nothing else is touched."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import files
from benchmark.bundles import pieces
from benchmark.errors import UserError
from tests.benchmark.bundles.stores import archive_of, wrapped

ARCHIVE = random.Random(7).randbytes(50_000)
LIMIT = 20_000


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A bundle of three pieces."""
    return wrapped(ARCHIVE, tmp_path / "out" / "home", LIMIT)


def test_pieces_of_any_order_and_of_several_bundles_make_the_archives(three: list[Path], tmp_path: Path) -> None:
    assert [path.name for path in three] == ["home.001", "home.002", "home.003"]
    assert all(path.stat().st_size <= LIMIT for path in three)
    other = wrapped(b"another archive", tmp_path / "out" / "other", LIMIT)
    found = {whole.bundle: whole.read() for whole in pieces.gather([three[2], *other, three[0], three[1]])}
    assert len(found) == 2
    assert archive_of(*reversed(three)) == ARCHIVE
    assert archive_of(*other) == b"another archive"
    assert len(pieces.gather([three[0].parent])) == 2
    (whole,) = pieces.gather(three)
    whole.seek(-3, os.SEEK_END)
    assert whole.read() == ARCHIVE[-3:]
    whole.seek(19_000)
    assert whole.read(5) == ARCHIVE[19_000:19_005]


def test_the_same_archive_makes_the_same_pieces(three: list[Path], tmp_path: Path) -> None:
    again = wrapped(ARCHIVE, tmp_path / "again" / "home", LIMIT)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in three]


def test_an_earlier_bundle_is_whole_until_the_new_one_is(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is given back while it packs leaves one of the two."""
    write, seen = files.write, []

    def full(path: Path, *parts: bytes, **named: str) -> None:
        seen.append(path)
        if len(seen) == 3:
            raise UserError("the disk is full")
        write(path, *parts, **named)

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        wrapped(ARCHIVE[::-1], three[0].with_suffix(""), LIMIT)
    assert archive_of(*three) == ARCHIVE
    assert sorted(three[0].parent.iterdir()) == three
    monkeypatch.undo()
    assert archive_of(*wrapped(ARCHIVE[::-1], three[0].with_suffix(""), LIMIT)) == ARCHIVE[::-1]


def test_pieces_of_an_earlier_bundle_give_way_and_nothing_else_does(three: list[Path]) -> None:
    target = three[0].with_suffix("")
    assert wrapped(b"short", target) == three[:1]
    assert sorted(target.parent.iterdir()) == three[:1]
    three[1].write_text("a chapter of my thesis")
    for call in (pieces.check_target, lambda one: wrapped(ARCHIVE, one, LIMIT)):
        with pytest.raises(UserError, match=r"home.002 is not a piece of a bundle; it is in the way: move it"):
            call(target)  # type: ignore[operator]
    assert archive_of(three[0]) == b"short"
    assert three[1].read_text() == "a chapter of my thesis"
    with pytest.raises(UserError, match="name a file"):
        pieces.check_target(Path())


Change = Callable[[list[Path]], list[Path] | None]


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def header(**fields: object) -> Change:
    """Change fields of the second piece's header."""

    def changed(three: list[Path]) -> None:
        line, _, payload = three[1].read_bytes().partition(b"\n")
        three[1].write_bytes(json.dumps({**json.loads(line), **fields}).encode() + b"\n" + payload)

    return changed


def contents(content: bytes) -> Change:
    return lambda three: rewrite(three[1], lambda _: content)


def edited(change: Callable[[bytes], bytes]) -> Change:
    return lambda three: rewrite(three[1], change)


def of_another(three: list[Path]) -> list[Path]:
    other = wrapped(ARCHIVE[::-1], three[0].parent / "other", LIMIT)
    return [three[0], other[1], three[2]]


def a_folder(three: list[Path]) -> list[Path]:
    folder = three[0].parent / "empty"
    folder.mkdir()
    return [folder]


def a_pipe(three: list[Path]) -> list[Path]:
    os.mkfifo(three[0].parent / "pipe")
    return [three[0].parent / "pipe"]


def unreadable(three: list[Path]) -> None:
    three[1].chmod(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda three: three[:2], r"bundle \w{12} is not complete: piece 3 of 3 is missing \(of it here: home.001"),
        (lambda three: three[1:2], "piece 1, 3 of 3 is missing"),
        (of_another, r"bundle \w{12} is not complete: piece 2 of 3 is missing \(of it here: home.001, home.003\)"),
        (lambda three: [*three, three[1]], r"home.002 is given twice: .*home.002 is piece 2 of the same bundle too"),
        (edited(lambda old: old[:-1]), r"home.002 is truncated: 18,999 of 19,000 bytes; copy it again"),
        (edited(lambda old: old + b"x"), "home.002 is longer than it says"),
        (edited(lambda old: old[:-1] + bytes([old[-1] ^ 1])), "home.002 is damaged: its checksum does not match"),
        (contents(b""), "home.002 is not a piece of a bundle"),
        (contents(b"[1]\n"), "home.002 is not a piece of a bundle"),
        (contents(b"[" * 900 + b"\n"), "home.002 is not a piece of a bundle"),
        (contents(bytes(range(256))), "home.002 is not a piece of a bundle"),
        (header(format=2), r"home.002 is of format 2, and this program reads 1; update it"),
        (header(format=0), r"home.002 is of format 0, and this program reads 1$"),
        (header(format=True), r"home.002 is of format True"),
        (header(project="other"), r"home.002 is of another project, 'other'"),
        (header(more=1), "home.002 is damaged: its header has not the fields"),
        (header(piece="2"), "home.002 is damaged: its header has not the fields"),
        (header(piece=4), "home.002 is damaged: its header has values"),
        (header(pieces=10**9), "home.002 is damaged: its header has values"),
        (header(size=-1), "home.002 is damaged: its header has values"),
        (header(bundle="../up"), "home.002 is damaged: its header has values"),
        (header(total=60_000), "home.002 and .*home.001 are of one bundle and differ in its size"),
        (header(pieces=4), "home.002 and .*home.001 are of one bundle and differ in its size"),
        (header(piece=1), "home.002 is given twice: .*home.001 is piece 1"),
        (header(sha256="0" * 64), "home.002 is damaged: its checksum does not match"),
        (unreadable, "home.002 cannot be read: Permission denied"),
        (lambda three: [three[0].parent / "none.001"], "none.001 does not exist"),
        (lambda three: [Path("a\0b")], r"'a\\x00b' cannot be read|does not exist"),
        (a_folder, "empty is a folder that holds no piece of a bundle"),
        (a_pipe, "pipe is not a file"),
    ],
)  # fmt: skip
def test_bad_pieces_are_named(change: Change, message: str, three: list[Path], unprivileged: None) -> None:
    given = change(three) or three
    with pytest.raises(UserError) as refused:
        pieces.gather(given)
    assert re.search(message, str(refused.value)), str(refused.value)


def test_pieces_that_do_not_make_the_archive_they_name_are_damaged(tmp_path: Path) -> None:
    (path,) = wrapped(ARCHIVE, tmp_path / "one")
    line, _, payload = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(line), "bundle": "0" * 64}).encode() + b"\n" + payload)
    with pytest.raises(UserError, match=r"bundle 000000000000 \(one.001\) is damaged"):
        pieces.gather([path])
