"""Tar archives: members of any name, kind and size, and changed bytes."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

from benchmark.datasets.download import extract
from tests.fuzz import nasty

NAMES = (
    "a", "b/c", "b", "link", "link/x", "../up", "/tmp/up", "b/../../up", ".", "..", "./a", "n" * 300, "b/" * 60 + "c",
)  # fmt: skip
TYPES = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE, b"Z",
)  # fmt: skip


def generate(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    compression: Any = rng.choice(("w", "w:gz", "w:bz2", "w:xz"))
    options: dict[str, Any] = {"compresslevel": 1} if compression in ("w:gz", "w:bz2") else {}
    with tarfile.open(fileobj=buffer, mode=compression, format=rng.choice((0, 1, 2)), **options) as tar:
        for _ in range(rng.randrange(5)):
            member = tarfile.TarInfo(rng.choice(NAMES) if rng.random() < 0.7 else nasty.word(rng))
            member.type = rng.choice(TYPES[:1] * 6 + TYPES)
            member.size = rng.choice((0, 3, 600, 3_000_000)) if member.type == tarfile.REGTYPE else 0
            member.linkname = rng.choice((*NAMES, "/etc/passwd", "."))
            member.mode = rng.choice((0o644, 0o755, 0, 0o7777))
            member.mtime = rng.choice((0, 10**10, 2**33))
            try:
                tar.addfile(member, io.BytesIO(bytes(member.size)))
            except (ValueError, UnicodeError):
                continue
    content = buffer.getvalue()
    return nasty.changed_bytes(rng, content) if rng.random() < 0.6 else content


def check(case: bytes, folder: Path) -> None:
    (folder / "archive").write_bytes(case)
    inside = folder / "inside"
    inside.mkdir()
    try:
        extract(folder / "archive", inside)
    except OSError:
        pass  # what the file system refuses: `Archive` names it
    finally:
        assert sorted(path.name for path in folder.iterdir()) == ["archive", "inside"]
        for place, folders, names in os.walk(inside):
            for name in (*folders, *names):
                path = os.path.realpath(f"{place}/{name}")
                assert path.startswith(os.path.realpath(inside)), path
