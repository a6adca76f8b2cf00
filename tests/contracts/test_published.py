"""What published entries promise, whatever methods are registered: also those that bear a name which a paper prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import pytest
import yaml
from torch import Tensor

import distillers
from benchmark.analysis import published
from benchmark.analysis.published import PublishedRuns, PublishedSeries, PublishedTable
from distillers.base import LogitDistiller, Views, register

CONTENT: dict[str, Mapping[str, Any]] = {
    f"{file.name.removesuffix('.yaml')}/{name}": content
    for file in (resources.files("benchmark.analysis") / "published").iterdir()
    if file.name.endswith(".yaml")
    for name, content in yaml.safe_load(file.read_text(encoding="utf-8")).items()
}


def methods_of(content: Mapping[str, Any]) -> list[str]:
    """Every method of an entry, as YAML writes it."""
    rows = content["rows"]
    named = list(rows) if isinstance(rows, dict) else [row["method"] for row in rows if "method" in row]
    levels = content["levels"] if content.get("factor") == "method" else ()
    return [*named, *levels, *content.get("gains", ()), *content.get("unsure", ()), *content.get("std", ())]


#: names of methods that are not registered, with the key that a file for each would choose
PRINTED = {
    name: re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    for name in sorted({name for content in CONTENT.values() for name in methods_of(content)})
    if name not in distillers.registry
}


def add(name: str, title: str) -> None:
    """Register a method that learns nothing."""

    def terms(self: Any, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        return {}

    register(type("Printed", (LogitDistiller,), {"name": name, "title": title, "terms": terms}))


@pytest.fixture
def named_as_printed() -> Iterator[None]:
    added = {title: key for title, key in PRINTED.items() if published.method_key(title) == title}
    for title, key in added.items():
        add(key, title)
    yield
    for key in added.values():
        distillers.registry.remove(key)


def test_there_are_printed_names() -> None:
    assert {"DIST", "CRD", "KD+LS", "ReviewKD"} <= set(PRINTED) | {
        distillers.registry.get(name).title for name in distillers.names()
    }


def test_a_method_named_as_printed_takes_over_its_rows(named_as_printed: None) -> None:
    """Under its key, and still under the printed name."""
    for name, entry in published.entries().items():
        content = CONTENT[name]
        for method in methods_of(content):
            key = published.method_key(method)
            assert key in distillers.registry
            if isinstance(entry, PublishedTable):
                pairs = dict(zip(content["pairs"], content["rows"][method], strict=True))
                for pair, value in pairs.items():
                    assert entry.value(pair, key) == entry.value(pair, method) == value
                assert entry.confidence_of(key) == entry.confidence_of(method)
                stds = dict(zip(content["pairs"], content.get("std", {}).get(method, ()), strict=False))
                assert all(entry.printed_std(pair, key) == std for pair, std in stds.items())
            if isinstance(entry, PublishedSeries):
                assert key in entry.levels or key in {row.method for row in entry.rows}
            if isinstance(entry, PublishedRuns):
                assert any(entry.of(row.pair, key) == entry.of(row.pair, method) != () for row in entry.rows)
    for table in published.ids():
        assert published.load(table).rows.keys() <= set(distillers.names())


def test_rows_are_the_methods_own_only_while_it_is_registered(named_as_printed: None) -> None:
    distillers.registry.remove(PRINTED["WCoRD"])
    tables = [table for table in map(published.load, published.ids()) if "WCoRD" in table.rows]
    assert tables
    add(PRINTED["WCoRD"], "WCoRD")
    assert "WCoRD" not in published.load(tables[0].id).rows


def test_a_method_has_one_spelling_in_the_files() -> None:
    """Its key; or, if it came here later than its numbers, its printed name throughout."""
    spellings: dict[str, set[str]] = {}
    for content in CONTENT.values():
        for method in methods_of(content):
            spellings.setdefault(published.method_key(method), set()).add(method)
    assert {key: names for key, names in spellings.items() if len(names) > 1} == {}, "write the key"
