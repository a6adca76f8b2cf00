"""YAML as text: tokens in any order, and changes of good texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmark import plain_yaml
from tests.fuzz import nasty

SHARE = 2.0
TOKENS = (
    "a", "b: ", "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ", ", ": ", "? ", "&x ", "*x", "<<: ", "!!int ",
    "!!map ", "!a ", "---\n", "...\n", "%YAML 1.1\n", "|\n", ">-\n", "'", '"', "# ", "1", "1.5", "0x1f", "1:30", "~",
    "=", "\t", "\\x", "2001-01-01",
)  # fmt: skip
GOOD = "a: &x {b: [1, 2.5, text], c: null}\nd: {<<: *x, e: 'quoted'}\nf:\n  - g: |\n      block\n  - \"h\\n\"\n"


def generate(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.4:
        return nasty.changed_text(rng, GOOD)
    if draw < 0.5:  # many levels, or many copies
        depth = rng.choice((3, 29, 31, 2000))
        return rng.choice(("[", "- ", "{a: ", "? ", "&a [*a, ")) * depth
    return "".join(rng.choice(TOKENS) if rng.random() < 0.85 else nasty.word(rng) for _ in range(rng.randrange(30)))


def check(case: str, folder: Path) -> None:
    assert _is_plain(plain_yaml.parse(case))


def _is_plain(value: Any) -> bool:
    """Whether a value is what settings are made of, with text as keys."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)
