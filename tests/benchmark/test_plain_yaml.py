"""YAML of settings: what is read as it stands, and what is refused with its line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmark import plain_yaml
from benchmark.errors import UserError


def test_settings_are_read_as_they_stand() -> None:
    text = "a: &x {b: 1, c: 2.5}\nd: {<<: *x, c: null}\ne: [yes, text, *x]\nf: 2001-99-99\ng: =\n"
    assert plain_yaml.parse(text) == {
        "a": {"b": 1, "c": 2.5},
        "d": {"b": 1, "c": None},
        "e": [True, "text", {"b": 1, "c": 2.5}],
        "f": "2001-99-99",
        "g": "=",
    }


def bomb(levels: int) -> str:
    """Few lines that stand for 2^levels values."""
    return "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, levels))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "line 1, column 8: an alias stands inside the value that it repeats"),
        (bomb(40), "more than 100,000 values, aliases counted"),
        ("[" * 1000, "line 1, column 31: more than 30 levels of nesting"),
        ("a: 1\na: 2", "line 2, column 1: the key a appears twice"),
        ("1: 2", "the key 1 is not text; quote it"),
        ("? [a]\n: b", "the key this is not text"),
        ("a: " + "1" * 5000, "cannot be read as int"),
        ("a: 0x" + "f" * 6000, "a whole number of more than 18 digits"),
        ("a: !!timestamp 2001-99-99", "the tag .*timestamp is not read here"),
        ("a: !!python/object/apply:os.getcwd []", "the tag .*os.getcwd is not read here"),
        ("a: !!map [1]", "the tag .*map is not read here"),
        ("a: !!float abc", "'abc' cannot be read as float"),
        (r'a: "\ud800"', "an escape for half a character, or for none"),
        (r'"\0": a', "an escape for half a character, or for none"),
        ("a: *b", "found undefined alias 'b'"),
        ("a: \0", "unacceptable character"),
        ("a: " + "x" * 2_000_000, "more than 1,000,000 characters"),
        ("a\n---\nb", "found another document"),
    ],
    ids=range(18),
)
def test_surprises_are_refused_in_one_line_and_at_once(text: str, message: str) -> None:
    start = time.thread_time()
    with pytest.raises(UserError, match=f"^not valid YAML: .*{message}.*$"):
        plain_yaml.parse(text)
    assert time.thread_time() - start < 2


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: größe\n".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, message in {
        "latin.yaml": "is not text in UTF-8 .byte 10",
        "pipe.yaml": "is not a file",
        ".": "is not a file",
        "none.yaml": "does not exist",
        "n" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(UserError, match=message):
            plain_yaml.read(tmp_path / name)
