"""The literature's numbers, each with its source: `load("sdd/table2")`, `lookup(["sdd/table2"], pair, "sdd_kd")`.

One YAML file per paper, one entry per table; pairs and methods are written with this project's keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import yaml
from pydantic import Field, model_validator

from benchmark.config import Frozen
from benchmark.errors import UserError, among

Confidence = Literal["read", "unsure"]
Accuracies = tuple[float | None, ...]

#: method key of the student trained without a teacher: its published value is the table's student accuracy
VANILLA = "vanilla"


class PublishedTable(Frozen):
    """A table as its source prints it; accuracies in percent, None where nothing is printed."""

    id: str
    title: str
    source: str
    #: `read`: in the named source itself; `unsure`: second-hand, derived or partly legible
    confidence: Confidence
    metric: str
    #: which epoch is reported and over how many runs, as far as it is known
    selection: str
    #: the columns, `teacher:student`
    pairs: tuple[str, ...] = Field(min_length=1)
    teacher: Accuracies | None = None
    student: Accuracies | None = None
    #: by method key, or by printed name for a method that the benchmark does not have
    rows: dict[str, Accuracies]
    #: misprints and contradictions that touch the values
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> PublishedTable:
        rows = {"teacher": self.teacher, "student": self.student, **self.rows}
        for name, row in rows.items():
            if row is not None and len(row) != len(self.pairs):
                raise ValueError(f"{self.id}, row {name}: {len(row)} values for {len(self.pairs)} pairs")
            if row is not None and any(value is not None and not 0 <= value <= 100 for value in row):
                raise ValueError(f"{self.id}, row {name}: not in percent")
        if len(set(self.pairs)) != len(self.pairs):
            raise ValueError(f"{self.id}: a pair stands twice")
        return self

    def value(self, pair: str, method: str) -> float | None:
        """Return the accuracy of a method (`vanilla`: of the student alone), or None where none is printed."""
        return self._cell(pair, self.student if method == VANILLA else self.rows.get(method))

    def teacher_value(self, pair: str) -> float | None:
        """Return the accuracy of a pair's teacher, or None where none is printed."""
        return self._cell(pair, self.teacher)

    def _cell(self, pair: str, row: Accuracies | None) -> float | None:
        return row[self.pairs.index(pair)] if row is not None and pair in self.pairs else None


class PublishedValue(NamedTuple):
    """One number of the literature, in percent."""

    value: float
    table: str
    source: str
    confidence: Confidence


def ids() -> list[str]:
    """Return the ids of all tables, sorted, e.g. `sdd/table2`."""
    return sorted(_tables())


def load(table: str) -> PublishedTable:
    """Return a table by id. Raises UserError that names the nearest for an unknown one."""
    known = _tables()
    if table not in known:
        raise UserError(f"unknown published table '{table}'{among(table, ids())}")
    return known[table]


def lookup(tables: Iterable[str], pair: str, method: str) -> PublishedValue | None:
    """Return a method's published accuracy: of the first of these tables that prints one. Raises as `load`."""
    return _first((load(table), load(table).value(pair, method)) for table in tables)


def lookup_teacher(tables: Iterable[str], pair: str) -> PublishedValue | None:
    """Return the published accuracy of a pair's teacher: of the first of these tables that prints one."""
    return _first((load(table), load(table).teacher_value(pair)) for table in tables)


def _first(cells: Iterable[tuple[PublishedTable, float | None]]) -> PublishedValue | None:
    for table, value in cells:
        if value is not None:
            return PublishedValue(value, table.id, table.source, table.confidence)
    return None


@cache
def _tables() -> dict[str, PublishedTable]:
    tables = {}
    for file in (resources.files("benchmark") / "published").iterdir():
        if file.name.endswith(".yaml"):
            paper = file.name.removesuffix(".yaml")
            for name, content in yaml.safe_load(file.read_text(encoding="utf-8")).items():
                tables[f"{paper}/{name}"] = PublishedTable(id=f"{paper}/{name}", **content)
    return tables
