"""The page on methods says of each what the code says: its kind, and the base that its gain is over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import distillers
from benchmark.catalogue import group_of

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
ROWS = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]


def test_no_method_of_a_paper_is_missing() -> None:
    """A method of one's own needs no row."""
    assert len(ROWS) == len(set(ROWS))
    assert {"vanilla", "kd", "dkd", "nkd", "mlkd", "ls_kd", "dist", "rld", "ctkd", "crd", "reviewkd"} <= set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_stands_under_its_kind_and_names_its_base(name: str) -> None:
    on_features = PAGE.index(f"| `{name}` |") > PAGE.index("## On feature maps")
    method = distillers.registry.get(name)
    assert group_of(method.sees) == ("feature" if on_features else "logit")
    if not on_features and name != "vanilla":
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert re.search(rf"\| {re.escape(f'`{method.base}`' if method.base else 'student alone')} \|", row)
