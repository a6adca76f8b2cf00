"""The page on methods is complete: one row a method, of the kind and over the base that the code names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import distillers
from benchmark.catalogue import group_of

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
ROWS = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
METHODS = [name for name in distillers.names() if not name.startswith("sdd_")]


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert sorted(ROWS) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_row_stands_under_its_kind_and_names_its_base(name: str) -> None:
    on_features = PAGE.index(f"| `{name}` |") > PAGE.index("## On feature maps")
    method = distillers.registry.get(name)
    assert group_of(method.sees) == ("feature" if on_features else "logit")
    if not on_features and name != "vanilla":
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert re.search(rf"\| {re.escape(f'`{method.base}`' if method.base else 'student alone')} \|", row)
