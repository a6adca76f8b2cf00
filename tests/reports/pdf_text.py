"""The text of a PDF as typst writes it, read by the grammar of PDF.

Nothing is searched for in raw bytes. A string of glyphs may hold any byte: glyphs 40 and 41 are `(` and `)`, which are
not escaped where they are balanced, and a string with a byte above 127 is written in hexadecimal. Which letter has
which number follows from the order in which a document uses its letters, so from every commit and date before it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, NamedTuple

_TOKEN = re.compile(
    rb"(?:\s|\0|%[^\r\n]*)*"
    rb"(?:(?P<bracket><<|>>|\[|\])|<(?P<hex>[0-9A-Fa-f\s]*)>|(?P<string>\()|/(?P<name>[^\s\0()<>\[\]{}/%]*)"
    rb"|(?P<word>[^\s\0()<>\[\]{}/%]+))"
)
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)")
_STRING_PART = re.compile(rb"\\([0-7]{1,3}|.)|[()]|[^\\()]+", re.S)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


class Reference(NamedTuple):
    """Stands for an object of this number."""

    number: int


class Operation(NamedTuple):
    """An operator after its operands; `end` is where it ends."""

    operator: bytes
    operands: list[Any]
    end: int


def pages(pdf: bytes) -> list[str]:
    """Return the text of every page; what is set anew (a cell, a line) is parted by a blank."""
    file = _File(pdf)
    return [_page(page, file) for page in file.pages()]


def text(pdf: bytes) -> str:
    """Return the whole text; blanks of all kinds are one."""
    return " ".join(" ".join(pages(pdf)).split())


def links(pdf: bytes) -> set[str]:
    """Return the addresses that the PDF links to."""
    file = _File(pdf)
    annotations = (file.get(one) for page in file.pages() for one in file.get(page.get("Annots", [])))
    actions = (file.get(annotation.get("A", {})) for annotation in annotations)
    return {action["URI"].decode() for action in actions if "URI" in action}


class _File:
    """The objects of a PDF, found by its table of their places."""

    def __init__(self, pdf: bytes) -> None:
        self._pdf = pdf
        table = int(pdf[pdf.rindex(b"startxref") + len(b"startxref") :].split()[0])
        operations = _operations(pdf, table)
        assert next(operations).operator == b"xref"
        # an entry is a place, a generation, and whether it is in use: n, or f
        entries = list(takewhile(lambda entry: entry.operator != b"trailer", operations))
        self._places = {number: entry.operands[-2] for number, entry in enumerate(entries) if entry.operator == b"n"}
        self._root = next(operations).operands[0]["Root"]

    def get(self, value: Any) -> Any:
        """Return what a reference stands for, and any other value as it is."""
        return self._operation(value).operands[-1] if isinstance(value, Reference) else value

    def stream(self, reference: Reference) -> bytes:
        """Return the content of a stream."""
        found = self._operation(reference)
        assert found.operator == b"stream"
        about = found.operands[-1]
        start = found.end + (2 if self._pdf[found.end : found.end + 2] == b"\r\n" else 1)
        packed = self._pdf[start : start + self.get(about["Length"])]
        return zlib.decompress(packed) if about.get("Filter") == "FlateDecode" else packed

    def pages(self) -> list[dict[str, Any]]:
        """Return the pages in their order."""
        return list(self._leaves(self.get(self._root)["Pages"]))

    def _leaves(self, node: Any) -> Iterator[dict[str, Any]]:
        found = self.get(node)
        if found["Type"] == "Page":
            yield found
        for kid in found.get("Kids", []):
            yield from self._leaves(kid)

    def _operation(self, reference: Reference) -> Operation:
        """Return the end of an object's head: (its value, `endobj` or `stream`)."""
        operations = _operations(self._pdf, self._places[reference.number])
        assert next(operations).operator == b"obj"
        return next(operations)


def _page(page: dict[str, Any], file: _File) -> str:
    fonts = file.get(file.get(page["Resources"]).get("Font", {}))
    tables = {name: _letters(file.stream(file.get(font)["ToUnicode"])) for name, font in fonts.items()}
    letters: dict[int, str] = {}
    parts: list[str] = []
    for operator, operands, _ in _operations(file.stream(page["Contents"])):
        if operator == b"Tf":
            letters = tables[operands[0]]
        elif operator in (b"T*", b"ET"):
            parts.append(" ")
        elif operator in (b"Tj", b"TJ"):
            shown = operands[0] if operator == b"TJ" else operands
            for glyphs in (one for one in shown if isinstance(one, bytes)):
                parts += [letters.get(code, "\ufffd") for code in _codes(glyphs)]
    return "".join(parts)


def _codes(glyphs: bytes) -> list[int]:
    assert len(glyphs) % 2 == 0
    return [int.from_bytes(glyphs[at : at + 2]) for at in range(0, len(glyphs), 2)]


def _letters(table: bytes) -> dict[int, str]:
    """Read a font's table from glyphs to letters."""
    found: dict[int, str] = {}
    for operator, operands, _ in _operations(table):
        assert operator != b"endbfrange", "typst lists every glyph"
        if operator == b"endbfchar":
            pairs = zip(operands[::2], operands[1::2], strict=True)
            found.update({int.from_bytes(glyph): letter.decode("utf-16-be") for glyph, letter in pairs})
    return found


def _operations(content: bytes, at: int = 0) -> Iterator[Operation]:
    """Read operands and their operators. Names are `str`, strings `bytes`, the rest is what it is in Python."""
    open_values: list[list[Any]] = [[]]
    while match := _TOKEN.match(content, at):
        at = match.end()
        values = open_values[-1]
        if (bracket := match["bracket"]) is not None:
            if bracket in (b"<<", b"["):
                open_values.append([])
            else:
                open_values.pop()
                pairs = zip(values[::2], values[1::2], strict=False)
                open_values[-1].append(dict(pairs) if bracket == b">>" else values)
        elif match["hex"] is not None:
            digits = b"".join(match["hex"].split())
            values.append(bytes.fromhex((digits + b"0" * (len(digits) % 2)).decode()))
        elif match["string"] is not None:
            string, at = _string(content, at)
            values.append(string)
        elif match["name"] is not None:
            values.append(match["name"].decode())
        elif _NUMBER.fullmatch(word := match["word"]):
            values.append(float(word) if b"." in word else int(word))
        elif word == b"R":
            number, _generation = values[-2:]
            values[-2:] = [Reference(number)]
        elif word in (b"true", b"false", b"null"):
            values.append({b"true": True, b"false": False, b"null": None}[word])
        else:
            yield Operation(word, values, at)
            open_values = [[]]


def _string(content: bytes, at: int) -> tuple[bytes, int]:
    """Read a string behind its opening parenthesis up to the one that closes it; return it and where it ends."""
    parts: list[bytes] = []
    depth = 1
    for match in _STRING_PART.finditer(content, at):
        part, escaped = match[0], match[1]
        depth += (part == b"(") - (part == b")")
        if depth == 0:
            return b"".join(parts), match.end()
        if escaped is not None:
            part = bytes([int(escaped, 8)]) if escaped.isdigit() else _ESCAPES.get(escaped, escaped)
        parts.append(part)
    raise ValueError("a string does not end")
