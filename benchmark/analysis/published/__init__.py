"""The literature's numbers, each with its source: `load("sdd/table2")`, `lookup(["sdd/table2"], pair, "sdd_kd")`.

One YAML file per paper (or group of sources), one entry per table. Pairs and methods are written with this project's
keys, unregistered methods by the name that the paper prints (`method_key` resolves it once the method is registered).
An entry's `kind` is `table`, of pairs x methods (the default), `series`, over one factor
(`ablation("sdd/table8").points("resnet32x4:shufflenet_v1")`), or `runs`, repeated runs (`runs("sdd/scripts")`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from pydantic import ValidationError

import distillers
from benchmark import plain_yaml
from benchmark.analysis.published.entry import COLUMNS, VANILLA, WORDS, Confidence, Published, method_key
from benchmark.analysis.published.repeated import PublishedRuns, RunsRow, Spread
from benchmark.analysis.published.series import PublishedSeries, SeriesRow
from benchmark.analysis.published.tables import PublishedTable, PublishedValue
from benchmark.errors import UserError, among, shown

__all__ = [
    "COLUMNS",
    "VANILLA",
    "WORDS",
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
    """All published entries of every kind by id, sorted."""
    return dict(_entries())


def ids() -> list[str]:
    """Ids of all tables of pairs x methods, sorted, e.g. `sdd/table2`; repeated runs count by their means."""
    return sorted(name for name, entry in _entries().items() if isinstance(entry, PublishedTable | PublishedRuns))


def load(table: str) -> PublishedTable:
    """Load a table by id, repeated runs as their means. Raises UserError that names the nearest known id."""
    entry = _entries().get(table)
    if isinstance(entry, PublishedRuns):
        return _means(table, _titles())
    if not isinstance(entry, PublishedTable):
        raise UserError(_unknown("table", table, ids()))
    return entry


def lookup(tables: Iterable[str], pair: str, method: str) -> PublishedValue | None:
    """Look up a method's published accuracy in the first of these tables that prints one. Raises as `load`."""
    for table in map(load, tables):
        value = table.value(pair, method)
        if value is not None:
            return PublishedValue(value, table.id, table.source, table.confidence_of(method), table.epoch_of(method))
    return None


def lookup_teacher(tables: Iterable[str], pair: str) -> PublishedValue | None:
    """Look up the published accuracy of a pair's teacher in the first of these tables that prints one."""
    for table in map(load, tables):
        value = table.teacher_value(pair)
        if value is not None:
            return PublishedValue(value, table.id, table.source, table.confidence, table.epoch)
    return None


def ablation(series: str) -> PublishedSeries:
    """Load an ablation, or another series, by id. Raises UserError that names the nearest known id."""
    return _get("ablation", series, _of(PublishedSeries))


def run_ids() -> list[str]:
    """Ids of all collections of repeated runs, sorted, e.g. `sdd/scripts`."""
    return sorted(_of(PublishedRuns))


def runs(name: str) -> PublishedRuns:
    """Load repeated runs by id. Raises UserError that names the nearest known id."""
    return _get("collection of runs", name, _of(PublishedRuns))


def parse_file(paper: str, text: str) -> dict[str, Published]:
    """Parse the YAML of one paper: its entries by id. Raises UserError, in one line, that names the entry and row."""
    try:
        content = plain_yaml.parse(text)
    except UserError as error:
        raise UserError(f"published numbers {paper}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"published numbers {paper}: must hold entries by name, e.g. `table2: ...`")
    return {f"{paper}/{name}": parse(f"{paper}/{name}", entry) for name, entry in content.items()}


def parse(name: str, content: Any) -> Published:
    """Parse an entry from its YAML content. Raises UserError, in one line, that names the entry and the row."""
    if not isinstance(content, Mapping):
        raise UserError(f"published entry {name}: must hold fields by name, e.g. `title: ...`")
    kind = content.get("kind", "table")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"published entry {name}: kind: {shown(kind)} must be one of {', '.join(_KINDS)}")
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


# which rows have a key depends on the registered distillers: when one is added, the entries are read again
@cache
def _read(titles: tuple[tuple[str, str], ...]) -> dict[str, Published]:
    found: dict[str, Published] = {}
    for file in (resources.files("benchmark.analysis") / "published").iterdir():
        if file.name.endswith(".yaml"):
            paper = file.name.removesuffix(".yaml")
            found |= parse_file(paper, file.read_text(encoding="utf-8"))
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
        return f"'{name}' is published as {_entries()[name].__class__.__name__}, not as {what}{among(name, known)}"
    return f"unknown published {what} '{name}'{among(name, known)}"
