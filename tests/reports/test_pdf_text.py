"""The reader of PDFs that the tests of reports lean on."""

from __future__ import annotations

import string

import typst

from tests.reports import pdf_text

#: no pair of them is drawn as one glyph
LETTERS = [*string.ascii_uppercase, *string.digits, *"acegkmoqsuvwxyz", *map(chr, range(0x391, 0x3A2))]
LETTERS += [*map(chr, range(0x3B1, 0x3C2)), *map(chr, range(0x410, 0x450))]


def compiled(words: list[str]) -> bytes:
    """Return a PDF of the words, a line each."""
    source = "#set page(width: auto)\n" + " \\\n".join(words)
    return typst.compile(source.encode(), ignore_system_fonts=True)


def test_glyphs_that_are_parentheses_are_read() -> None:
    """A glyph's number is the place of its letter in the document: ± is glyph 40, × is 41."""
    words = ["".join(LETTERS[:39]), "1±2×3", "×1±", "±±1××", "1±"]
    assert pdf_text.text(compiled(words)).split() == words


def test_strings_in_hexadecimal_are_read() -> None:
    """What is beyond glyph 127; a blank parts alphabets."""
    assert len(LETTERS) > 140
    words = ["".join(LETTERS), "яюэ", "ABC"]
    assert "".join(pdf_text.text(compiled(words)).split()) == "".join(words)


def test_pages_are_in_their_order_and_links_are_found() -> None:
    source = '#link("https://a.example/x(y)?z=1")[one]\n#pagebreak()\ntwo\n#pagebreak()\nthree'
    pdf = typst.compile(source.encode(), ignore_system_fonts=True)
    assert [page.strip() for page in pdf_text.pages(pdf)] == ["one", "two", "three"]
    assert pdf_text.links(pdf) == {"https://a.example/x(y)?z=1"}
