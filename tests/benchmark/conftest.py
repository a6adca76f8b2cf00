"""What is made once for the tests of the harness."""

from __future__ import annotations

from tests.made_once import curves_are_drawn_once, new_stores_are_copies, new_stores_are_made

__all__ = ["curves_are_drawn_once", "new_stores_are_copies", "new_stores_are_made"]
