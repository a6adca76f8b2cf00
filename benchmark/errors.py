"""What a user can put right. Standard library only, so that every package may raise it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake or a missing thing on the user's side: one line that names it, the reason and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or an empty string when none is close."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def among(name: str, known: Iterable[str]) -> str:
    """Return what follows the name of an unknown thing: the nearest known one, then all of them."""
    names = list(known)
    return f"{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}"
