"""Errors that a user can correct. Standard library only, so that every package may raise them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

#: bytes of a name that becomes a part of file names, which end at 255
MAX_NAME_BYTES = 80


class UserError(ValueError):
    """An error that the user can correct: one line that names the thing, the reason and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


class ServiceError(UserError):
    """A database or server that failed, perhaps only for a while: `service` is what it is called."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


class LostRank(RuntimeError):
    """A process that trains a cohort with this one has ended; the message says which, and why."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name closest to `name` as `; did you mean 'x'?`, or an empty string when none is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def among(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, then list all: the end of a message about an unknown name."""
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"


#: characters of a value or a message that are shown
_SHOWN, _LINE = 100, 4000


def shown(value: object) -> str:
    """Write a value that the user gave for a message: its repr, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists of lists of lists
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def one_line(text: str) -> str:
    """Escape line ends, other control characters and bytes that are not UTF-8; shorten what nobody would read."""
    short = text if len(text) <= _LINE else f"{text[:_LINE]}…"
    return "".join(
        one.encode("unicode_escape", "surrogatepass").decode("ascii") if _is_control(one) else one for one in short
    )


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")


def unprintable(text: str) -> str | None:
    """Explain why a text cannot stand in a table, a log or a file; None when it can."""
    if any("\ud800" <= one <= "\udfff" for one in text):
        return "is not text in UTF-8"
    return "has a line end or another control character" if any(map(_is_control, text)) else None


def name_fault(name: str, max_bytes: int = MAX_NAME_BYTES) -> str | None:
    """Explain why a name cannot be a part of file names, tables and experiments; None when it can."""
    if fault := unprintable(name):
        return fault
    if not name.strip():
        return "is empty"
    if (size := len(name.encode())) > max_bytes:
        return f"has {size} bytes; at most {max_bytes} fit into file names"
    if name[0] in ".-" or name != name.strip():
        return "starts with '.' or '-', or has spaces around it"
    # MLflow's queries have names between quotes
    return "has a slash or a quote" if any(one in "/\\'\"`" for one in name) else None
