"""The literature's numbers, each with its source: `load("sdd/table2")`, `lookup(["sdd/table2"], pair, "sdd_kd")`.

One YAML file per paper (or group of sources), one entry per table; pairs and methods are written with this project's
keys, a method that is not here by the name that the paper prints (`method_key` resolves it once it is registered). An
entry's `kind` says what it is: a table of pairs x methods (when it says nothing), a `series` over one factor
(`ablation("sdd/table8").points("resnet32x4:shufflenet_v1")`), or repeated `runs` (`runs("sdd/scripts")`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

import distillers
from benchmark.analysis.published.entry import VANILLA, Confidence, Published, method_key
from benchmark.analysis.published.repeated import PublishedRuns, RunsRow, Spread
from benchmark.analysis.published.series import PublishedSeries, SeriesRow
from benchmark.analysis.published.tables import PublishedTable, PublishedValue
from benchmark.errors import UserError, among

__all__ = [
    "VANILLA",
    "Confidence",
    "Published",
    "PublishedRuns",
    "PublishedSeries",
    "PublishedTable",
    "PublishedValue",
    "RunsRow",
    "SeriesRow",
    "Spread",
    "ablation",
    "entries",
    "ids",
    "load",
    "lookup",
    "lookup_teacher",
    "method_key",
    "parse",
    "run_ids",
    "runs",
]

_KINDS: Mapping[str, type[Published]] = {"table": PublishedTable, "series": PublishedSeries, "runs": PublishedRuns}

P = TypeVar("P", bound=Published)


def entries() -> Mapping[str, Published]:
    """Return everything that is held, of every kind, by id: in the order of the ids."""
    return dict(_entries())


def ids() -> list[str]:
    """Return the ids of all tables of pairs x methods, sorted, e.g. `sdd/table2`; runs count by their means."""
    return sorted(name for name, entry in _entries().items() if isinstance(entry, PublishedTable | PublishedRuns))


def load(table: str) -> PublishedTable:
    """Return a table by id, repeated runs as their means. Raises UserError that names the nearest to an unknown one."""
    entry = _entries().get(table)
    if isinstance(entry, PublishedRuns):
        return _means(table, _titles())
    if not isinstance(entry, PublishedTable):
        raise UserError(_unknown("table", table, ids()))
    return entry


def lookup(tables: Iterable[str], pair: str, method: str) -> PublishedValue | None:
    """Return a method's published accuracy: of the first of these tables that prints one. Raises as `load`."""
    for table in map(load, tables):
        value = table.value(pair, method)
        if value is not None:
            return PublishedValue(value, table.id, table.source, table.confidence_of(method))
    return None


def lookup_teacher(tables: Iterable[str], pair: str) -> PublishedValue | None:
    """Return the published accuracy of a pair's teacher: of the first of these tables that prints one."""
    for table in map(load, tables):
        value = table.teacher_value(pair)
        if value is not None:
            return PublishedValue(value, table.id, table.source, table.confidence)
    return None


def ablation(series: str) -> PublishedSeries:
    """Return an ablation, or another series, by id. Raises UserError that names the nearest for an unknown one."""
    return _get("ablation", series, _of(PublishedSeries))


def run_ids() -> list[str]:
    """Return the ids of all collections of repeated runs, sorted, e.g. `sdd/scripts`."""
    return sorted(_of(PublishedRuns))


def runs(name: str) -> PublishedRuns:
    """Return repeated runs by id. Raises UserError that names the nearest for an unknown one."""
    return _get("collection of runs", name, _of(PublishedRuns))


def parse(name: str, content: Mapping[str, Any]) -> Published:
    """Return an entry from what YAML holds of it. Raises UserError, in one line, that names the entry and the row."""
    kind = content.get("kind", "table")
    if kind not in _KINDS:
        raise UserError(f"published entry {name}: kind: '{kind}' is none of {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**{**content, "id": name})
    except ValidationError as refusal:
        problems = (
            ": ".join([*map(str, error["loc"]), error["msg"].removeprefix("Value error, ")])
            for error in refusal.errors()
        )
        raise UserError(f"published entry {name}: {'; '.join(problems)}") from None


def _entries() -> dict[str, Published]:
    return _read(_titles())


def _titles() -> tuple[tuple[str, str], ...]:
    return tuple((name, distillers.registry.get(name).title) for name in distillers.names())


# which rows have a key depends on the distillers that are registered: a new one has the entries read again
@cache
def _read(titles: tuple[tuple[str, str], ...]) -> dict[str, Published]:
    found = {}
    for file in (resources.files("benchmark.analysis") / "published").iterdir():
        if file.name.endswith(".yaml"):
            paper = file.name.removesuffix(".yaml")
            for name, content in yaml.safe_load(file.read_text(encoding="utf-8")).items():
                found[f"{paper}/{name}"] = parse(f"{paper}/{name}", content)
    return dict(sorted(found.items()))


@cache
def _means(name: str, titles: tuple[tuple[str, str], ...]) -> PublishedTable:
    return runs(name).means()


def _of(kind: type[P]) -> dict[str, P]:
    return {name: entry for name, entry in _entries().items() if isinstance(entry, kind)}


def _get(what: str, name: str, known: Mapping[str, P]) -> P:
    if name not in known:
        raise UserError(_unknown(what, name, sorted(known)))
    return known[name]


def _unknown(what: str, name: str, known: list[str]) -> str:
    if name in _entries():
        return f"'{name}' is published as {_entries()[name].__class__.__name__}, it is no {what}{among(name, known)}"
    return f"unknown published {what} '{name}'{among(name, known)}"
