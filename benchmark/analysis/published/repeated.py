"""Published single runs: the spread that a table's printed number hides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from benchmark.analysis import stats
from benchmark.analysis.published.entry import Level, Method, Published, as_field, method_key, unique
from benchmark.analysis.published.tables import PublishedTable
from benchmark.config import Frozen


class RunsRow(Frozen):
    """Runs of one pair and method at equal settings."""

    pair: str
    method: Method
    #: one value per run
    values: tuple[float, ...] = Field(min_length=1)
    #: by field of a distiller (`sdd.scales`), or by a name of the source's
    settings: Mapping[str, Level] = {}

    @field_validator("settings")
    @classmethod
    def _parsed(cls, settings: Mapping[str, Level]) -> Mapping[str, Any]:
        return {path: as_field(path, value) for path, value in settings.items()}

    @property
    def mean(self) -> float:
        return stats.mean_std(self.values)[0]

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1), in the unit of the values; None for a single run."""
        return stats.mean_std(self.values)[1]


class Spread(NamedTuple):
    """A standard deviation from run to run, pooled over rows."""

    std: float
    degrees_of_freedom: int


class PublishedRuns(Published):
    """Single runs by pair and method; the runs of a row have equal settings."""

    kind: Literal["runs"]
    rows: tuple[RunsRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _checked(self) -> PublishedRuns:
        for row in self.rows:
            name = f"{row.pair} {row.method}"
            self.check_pair(name, row.pair)
            self.check_method(row.method)
            self.check(name, row.values, len(row.values), "runs")
        unique(self.id, "row", ((row.pair, row.method, sorted(row.settings.items())) for row in self.rows))
        return self

    def of(self, pair: str, method: str) -> tuple[RunsRow, ...]:
        """Rows of a pair and method, one per setting, in the order of the source."""
        return tuple(row for row in self.rows if (row.pair, row.method) == (pair, method_key(method)))

    def spread(self, without: Iterable[tuple[str, str]] = ()) -> Spread | None:
        """Pooled standard deviation of all rows except those of these (pair, method); None when all are single runs."""
        left_out = {(pair, method_key(method)) for pair, method in without}
        kept = [row for row in self.rows if row.std is not None and (row.pair, row.method) not in left_out]
        freedom = sum(len(row.values) - 1 for row in kept)
        squares = math.fsum((value - row.mean) ** 2 for row in kept for value in row.values)
        return Spread(math.sqrt(squares / freedom), freedom) if freedom else None

    def means(self) -> PublishedTable:
        """Tabulate the means of the runs; of several settings of a pair and method, the first."""
        pairs = tuple(sorted({row.pair for row in self.rows}))
        methods = tuple(dict.fromkeys(row.method for row in self.rows))
        own = {name: getattr(self, name) for name in Published.model_fields}
        first = {key: self.of(*key)[:1] for key in ((pair, method) for pair in pairs for method in methods)}
        return PublishedTable(
            **own,
            pairs=pairs,
            rows={
                method: tuple(next((round(row.mean, 4) for row in first[pair, method]), None) for pair in pairs)
                for method in methods
            },
        )
