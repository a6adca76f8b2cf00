"""A bundle's archive as numbered pieces, and back: bytes only. No heavy import: a wrong file is refused at once.

A piece is one line of JSON (`Header`), then a part of the archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from benchmark import files
from benchmark.errors import UserError, shown, unprintable

PROJECT = "sdd-benchmark"
#: raise it whenever a bundle of before cannot be read as one of now
FORMAT = 1
MEGABYTE = 1_000_000
#: a header is shorter, its line end included
MAX_HEADER = 1_000
MAX_PIECES = 100_000
#: missing numbers that a message lists
_LISTED = 10
_BLOCK = 1 << 20
#: bytes of a name to which a number and `.partial` are added, of 255 that file systems have
_MAX_NAME = 230


@dataclass(frozen=True)
class Header:
    """The first line of a piece."""

    project: str
    format: int
    #: sha256 of the whole archive
    bundle: str
    #: number of this piece, counted from 1, and of all pieces
    piece: int
    pieces: int
    #: sha256 and size of this piece without its header
    sha256: str
    size: int
    #: size of the whole archive
    total: int

    @property
    def line(self) -> bytes:
        """The header as it is written."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True)
class Piece:
    """A file that is a piece."""

    path: Path
    header: Header
    #: where the part of the archive begins in the file
    start: int


class Whole(io.RawIOBase):
    """The archive that lies in pieces, to be read as one file."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self.pieces, self.size = pieces, pieces[0].header.total
        self._position = 0
        self._open: tuple[int, BinaryIO] | None = None
        self._begins = [0]
        for piece in pieces:
            self._begins.append(self._begins[-1] + piece.header.size)

    @property
    def bundle(self) -> str:
        """Id of the bundle."""
        return self.pieces[0].header.bundle

    @property
    def title(self) -> str:
        """The bundle as messages name it."""
        return f"bundle {self.bundle[:12]} ({self.pieces[0].path.name})"

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a piece."""
        if self._position >= self.size:
            return 0
        number = next(n for n, end in enumerate(self._begins[1:]) if self._position < end)
        piece, file = self.pieces[number], self._file(number)
        inside = self._position - self._begins[number]
        file.seek(piece.start + inside)
        content = file.read(min(len(buffer), piece.header.size - inside))
        if not content:
            raise UserError(f"piece {piece.path} has become shorter while it was read")
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
        super().close()

    def _file(self, number: int) -> BinaryIO:
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = number, self.pieces[number].path.open("rb")
        return self._open[1]


def split(archive: IO[bytes], target: Path, limit: int) -> list[Path]:
    """Write an archive as `target`.001, .002, ... of at most `limit` bytes each; return the paths.

    Pieces of an earlier bundle with the same name are replaced once all new ones are written, and those that it had
    more are deleted.

    Raises:
        UserError: when anything else has the name of a piece, or a piece cannot be written.
    """
    stale = _replaceable(target)
    total = archive.seek(0, io.SEEK_END)
    archive.seek(0)
    bundle = _digest(archive)
    archive.seek(0)
    size = limit - MAX_HEADER
    count = max(1, -(-total // size))
    if count > MAX_PIECES:
        raise UserError(f"{target}: {count:,} pieces would be needed, at most {MAX_PIECES:,} can be; give --piece-mb")
    written: dict[Path, Path] = {}
    try:
        for number in range(1, count + 1):
            content = archive.read(size)
            digest = hashlib.sha256(content).hexdigest()
            header = Header(PROJECT, FORMAT, bundle, number, count, digest, len(content), total)
            path = target.with_name(f"{target.name}.{number:03d}")
            new = path.with_name(f".{path.name}.new")  # no FILE.*: a kill may leave it
            written[path] = new
            files.write(new, header.line, content, way_out="free some space, or name another place")
        for path, new in written.items():
            new.replace(path)
    except BaseException:
        for new in written.values():
            new.unlink(missing_ok=True)
        raise
    for path in stale:
        if path not in written:
            path.unlink(missing_ok=True)
    return list(written)


def check_target(target: Path) -> None:
    """Raise UserError when pieces of this name cannot be written: before anything is gathered for them."""
    name = target.name
    if name in ("", ".."):
        raise UserError(f"{target}: name a file: its pieces are FILE.001, FILE.002, ...")
    if (fault := unprintable(str(target))) or len(os.fsencode(name)) > _MAX_NAME:
        raise UserError(f"{shown(str(target))} cannot be a file: its name {fault or 'is too long'}")
    _replaceable(target)


def _replaceable(target: Path) -> list[Path]:
    """Pieces of an earlier bundle of this name. Raises UserError when anything else is called as a piece is."""
    number = re.compile(re.escape(target.name) + r"\.\d{3,}")
    try:
        there = sorted(path for path in target.parent.iterdir() if number.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot write to {target.parent}: {error.strerror or error}; name another place") from error
    for path in there:
        try:
            _read_header(path)
        except UserError as error:
            raise UserError(f"{error}; it is in the way: move it, or name another FILE") from error
    return there


def gather(paths: Iterable[Path]) -> list[Whole]:
    """Put the pieces of one or several bundles together, in whatever order they are named, and check every byte.

    A folder stands for the pieces in it. Nothing is written.

    Raises:
        UserError: for a file that is no whole piece of this project and format, and for bundles that lack pieces.
    """
    found: defaultdict[str, dict[int, Piece]] = defaultdict(dict)
    for path in _files(paths):
        piece = _piece(path)
        known = found[piece.header.bundle].setdefault(piece.header.piece, piece)
        if known is not piece:
            raise UserError(f"{path} is given twice: {known.path} is piece {piece.header.piece} of the same bundle too")
    return [_whole([pieces[number] for number in sorted(pieces)]) for pieces in found.values()]


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        try:
            if not path.is_dir():
                found.append(path)
                continue
            inside = sorted(one for one in path.iterdir() if re.fullmatch(r".+\.\d{3,}", one.name))
        except (OSError, ValueError) as error:  # not readable, or no name of a file at all
            raise UserError(
                f"{shown(str(path))} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
        if not inside:
            raise UserError(f"{path} is a folder that holds no piece of a bundle: pieces are called NAME.001, NAME.002")
        found += inside
    return found


def _read_header(path: Path) -> tuple[Header, int]:
    """Read the header of a piece, and the size of its line. Raises UserError for any other file."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
        with path.open("rb") as file:
            line = file.readline(MAX_HEADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("project"), str) or "format" not in fields:
        raise UserError(f"{path} is not a piece of a bundle")
    check_origin(fields, str(path))
    kinds = {name: type(value) for name, value in fields.items()}
    if kinds != {name: str if name in ("project", "bundle", "sha256") else int for name in Header.__annotations__}:
        raise UserError(f"{path} is damaged: its header has not the fields of a piece")
    header = Header(**fields)
    hexes = re.compile("[0-9a-f]{64}")
    if (
        not (hexes.fullmatch(header.bundle) and hexes.fullmatch(header.sha256))
        or not 1 <= header.piece <= header.pieces <= MAX_PIECES
        or not 0 <= header.size <= header.total
    ):
        raise UserError(f"{path} is damaged: its header has values that no piece has")
    return header, len(line)


def check_origin(fields: dict[str, Any], where: str) -> None:
    """Raise UserError for a bundle of another project, or of a format that this program does not read."""
    if fields.get("project") != PROJECT:
        raise UserError(f"{where} is of another project, {shown(fields.get('project'))}: {PROJECT} does not read it")
    if fields.get("format") != FORMAT or isinstance(fields.get("format"), bool):
        newer = "; update it" if isinstance(fields.get("format"), int) and fields["format"] > FORMAT else ""
        raise UserError(f"{where} is of format {shown(fields.get('format'))}, and this program reads {FORMAT}{newer}")


def _piece(path: Path) -> Piece:
    """Read a piece's header and check its bytes. Raises UserError when it is damaged."""
    header, start = _read_header(path)
    there = path.stat().st_size - start
    if there != header.size:
        fault = "truncated" if there < header.size else "longer than it says"
        raise UserError(f"{path} is {fault}: {there:,} of {header.size:,} bytes; copy it again")
    with path.open("rb") as file:
        file.seek(start)
        digest = _digest(file)
    if digest != header.sha256:
        raise UserError(f"{path} is damaged: its checksum does not match; copy it again")
    return Piece(path, header, start)


def _whole(pieces: Sequence[Piece]) -> Whole:
    """Check that pieces of one bundle, in order, are all of it. Raises UserError that names what is missing."""
    first = pieces[0].header
    for piece in pieces:
        if (piece.header.pieces, piece.header.total) != (first.pieces, first.total):
            raise UserError(
                f"{piece.path} and {pieces[0].path} are of one bundle and differ in its size: one is damaged"
            )
    there = {piece.header.piece for piece in pieces}
    if missing := [number for number in range(1, first.pieces + 1) if number not in there]:
        listed = ", ".join(map(str, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
        known = ", ".join(piece.path.name for piece in pieces[:_LISTED])
        raise UserError(
            f"bundle {first.bundle[:12]} is not complete: piece {listed} of {first.pieces} is missing (of it here:"
            f" {known}); name all its pieces"
        )
    whole = Whole(pieces)
    if sum(piece.header.size for piece in pieces) == first.total:
        digest = _digest(whole)
        whole.seek(0)
        if digest == first.bundle:
            return whole
    raise UserError(f"{whole.title} is damaged: its pieces do not make the archive that they name")


def _digest(file: IO[bytes] | Whole) -> str:
    """The sha256 of the rest of a file."""
    total = hashlib.sha256()
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()
