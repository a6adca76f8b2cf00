"""Errors that a user can correct. Standard library only, so that every package may raise them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that the user can correct: one line that names the thing, the reason and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name closest to `name` as `; did you mean 'x'?`, or an empty string when none is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def among(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, then list all: the end of a message about an unknown name."""
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"
