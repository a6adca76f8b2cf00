"""The text of a PDF as typst writes it: streams packed by zlib, fonts of two-byte glyphs with a table to Unicode."""

from __future__ import annotations

import re
import zlib

_OBJECT = re.compile(rb"\n(\d+) 0 obj(.*?)endobj", re.S)
_SHOWN = re.compile(rb"/(f\d+) [\d.]+ Tf|\((?:[^()\\]|\\.)*\)|(T\*|ET)", re.S)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def pages(pdf: bytes) -> list[str]:
    """Return the text of every page; what is set anew (a cell, a line) is parted by a blank."""
    objects = {int(number): body for number, body in _OBJECT.findall(pdf)}
    found = []
    for body in objects.values():
        if re.search(rb"/Type\s*/Page\b(?!s)", body.split(b"stream")[0]):
            found.append(_page(body, objects))
    return found


def text(pdf: bytes) -> str:
    """Return the whole text; blanks of all kinds are one."""
    return " ".join(" ".join(pages(pdf)).split())


def links(pdf: bytes) -> set[str]:
    """Return the addresses that the PDF links to."""
    return {found.decode() for found in re.findall(rb"/URI\s*\((.*?)\)", pdf)}


def _page(body: bytes, objects: dict[int, bytes]) -> str:
    resources = body
    if reference := re.search(rb"/Resources (\d+) 0 R", body):
        resources = objects[int(reference[1])]
    fonts = {name: _letters(objects[int(number)], objects) for name, number in _fonts(resources, objects)}
    contents = re.search(rb"/Contents (\d+) 0 R", body)
    assert contents is not None
    parts: list[str] = []
    letters: dict[int, str] = {}
    drawn = re.sub(rb"/Lang\(.*?\)", b"", _stream(objects[int(contents[1])]))
    for match in _SHOWN.finditer(drawn):
        if match[1]:
            letters = fonts[match[1]]
        elif match[2]:
            parts.append(" ")
        else:
            glyphs = re.sub(rb"\\([0-7]{1,3}|.)", _unescaped, match[0][1:-1], flags=re.S)
            codes = (int.from_bytes(glyphs[at : at + 2]) for at in range(0, len(glyphs), 2))
            parts += [letters.get(code, "\ufffd") for code in codes]
    return "".join(parts)


def _fonts(resources: bytes, objects: dict[int, bytes]) -> list[tuple[bytes, bytes]]:
    if reference := re.search(rb"/Font (\d+) 0 R", resources):
        resources = objects[int(reference[1])]
    return re.findall(rb"/(f\d+) (\d+) 0 R", resources)


def _letters(font: bytes, objects: dict[int, bytes]) -> dict[int, str]:
    reference = re.search(rb"/ToUnicode (\d+) 0 R", font)
    assert reference is not None
    table = _stream(objects[int(reference[1])])
    return {
        int(glyph, 16): bytes.fromhex(letter.decode()).decode("utf-16-be")
        for glyph, letter in re.findall(rb"<([0-9A-F]{4})> <([0-9A-F]+)>\n", table)
    }


def _stream(body: bytes) -> bytes:
    head, _, rest = body.partition(b"stream\n")
    length = re.search(rb"/Length (\d+)", head)
    assert length is not None
    packed = rest[: int(length[1])]
    return zlib.decompress(packed) if b"FlateDecode" in head else packed


def _unescaped(match: re.Match[bytes]) -> bytes:
    found = match[1]
    return bytes([int(found, 8)]) if found.isdigit() else _ESCAPES.get(found, found)
