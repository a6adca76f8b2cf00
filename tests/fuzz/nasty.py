"""Values and texts that programs trip over, and changes of good ones."""

from __future__ import annotations

import math
import random
from typing import Any

WORDS = (
    "", " ", ".", "..", "../up", "/", "/etc/passwd", "a/b", "a\\b", "~", "-", "--", "--help", "-1", "x" * 90,
    "n" * 300, "\0", "\n", "a\nb", "\r", "\t", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\ud800",
    "\udcff", "é", "e\u0301", "größe", "日本", "🙂", "²", "١٢", "½", "null", "true", "yes", "no", "on", "~", "nan",
    "inf", "-inf", ".nan", ".inf", "1e400", "1e-400", "0x10", "0o7", "0b1", "1_000", "1:30", "1.", ".5", "+1",
    "1" * 20, "9" * 5000, "2001-99-99", "2001-01-01", "[", "]", "{", "}", "[]", "{}", "[[]]", "{a: 1}", "[1, 2", ",",
    "a,b", ",,", ":", "a:b", "a:b:c", ": ", "#", "!", "!!", "!!python/name:os", "&a", "*a", "<<", "?", "|", ">", "%",
    "%s", "{0}", "{x!r}", "$x", "`x`", "=", "=1+1", "'", '"', "'a", '"a', "\\", "\\x", "<b>", "[red]", "[/]",
    "#let x", "$ x $", "@x", "_x_", "*x*", "```", "|a|", "auto", "cuda", "cuda:9", "cpu", "meta", "digits", "kd",
    "vanilla", "resnet8", "resnet8:resnet8", "timm/x", "torchvision/x", "timm/../x", "0", "1", "2", "3", "-0", "0.1",
    "100", "1000000",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 17, 100, 1000, 1001, 10**5, 10**6, 10**9, 2**31, 2**63, 10**18, 10**30, -(10**18))
FLOATS = (0.0, -0.0, 0.5, -0.5, 1e-320, 1e308, math.inf, -math.inf, math.nan, 0.1)


def word(rng: random.Random) -> str:
    """A text: one that programs trip over, two of them, or random characters."""
    draw = rng.random()
    if draw < 0.7:
        return rng.choice(WORDS)
    if draw < 0.85:
        return rng.choice(WORDS) + rng.choice(WORDS)
    reach = rng.choice((128, 0x3000, 0x110000))
    return "".join(chr(rng.randrange(reach)) for _ in range(rng.randrange(6)))


def value(rng: random.Random, depth: int = 0) -> Any:
    """A value as YAML or JSON could hold it."""
    draw = rng.random()
    if draw < 0.35:
        return word(rng)
    if draw < 0.55:
        return rng.choice(NUMBERS)
    if draw < 0.7:
        return rng.choice(FLOATS)
    if draw < 0.8 or depth > 2:
        return rng.choice((None, True, False))
    if draw < 0.9:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {key(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))}


def near(rng: random.Random, old: Any) -> Any:
    """A value of the same kind as an old one: likely to be accepted, and wrong in some other way."""
    if isinstance(old, bool) or old is None:
        return rng.choice((True, False, None))
    if isinstance(old, int):
        return rng.choice((old + 1, max(old - 1, 0), old * 2, old // 2, 1, 2, 8, 0))
    if isinstance(old, float):
        return rng.choice((old * 2, old / 2, old * 10, 1.0, 1e-9, 0.0))
    if isinstance(old, list | tuple) and old:
        return rng.choice((list(old[:-1]), [*old, near(rng, old[-1])], [near(rng, one) for one in old]))
    return rng.choice((old, word(rng), f"{old}{rng.randrange(3)}"))


def key(rng: random.Random) -> Any:
    """A key of a mapping, mostly text."""
    return word(rng) if rng.random() < 0.9 else rng.choice((*NUMBERS, *FLOATS, None, True))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of lists and mappings."""
    found = []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, below in inner:
        found.append((tree, name))
        found += places(below)
    return found


def change(rng: random.Random, tree: Any) -> None:
    """Change a tree in one place: replace, delete, double, rename or move a value."""
    where = places(tree)
    if not where:
        return
    container, name = rng.choice(where)
    draw = rng.random()
    if draw < 0.3:
        container[name] = near(rng, container[name])
    elif draw < 0.5:
        container[name] = value(rng)
    elif draw < 0.65:
        del container[name]
    elif draw < 0.8:
        if isinstance(container, dict):
            container[key(rng)] = value(rng)
        else:
            container.insert(name, value(rng))
    elif draw < 0.9 and isinstance(container, dict):
        container[key(rng)] = container.pop(name)
    else:
        other, place = rng.choice(where)
        if place in other if isinstance(other, dict) else place < len(other):
            container[name] = _copy(other[place])


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _copy(below) for name, below in tree.items()}
    return [_copy(below) for below in tree] if isinstance(tree, list) else tree


def changed_text(rng: random.Random, text: str) -> str:
    """Change a text in one to four places: insert, delete, double or swap."""
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((1, 1, 2, 5, 40)))
        text = text[:start] + rng.choice(("", word(rng), text[start:end] * 2, text[end : end + 5])) + text[end:]
    return text


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """Change bytes in up to six places: flip, set, insert, delete, cut off, double a part."""
    made = bytearray(content)
    for _ in range(rng.randrange(1, 7)):
        if not made:
            break
        place = rng.randrange(len(made)) if rng.random() < 0.6 else rng.randrange(min(64, len(made)))
        match rng.randrange(7):
            case 0:
                made[place] ^= 1 << rng.randrange(8)
            case 1:
                made[place] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                made[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 3:
                made[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                del made[place : place + rng.choice((1, 2, 8, 100))]
            case 5 if rng.random() < 0.3:
                del made[place:]
            case _:
                made[place:place] = made[place : place + rng.choice((4, 16, 64))]
    return bytes(made)
