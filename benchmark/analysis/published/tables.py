"""Published tables of pairs x methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

import distillers
from benchmark.analysis.published.entry import VANILLA, Confidence, Epoch, Method, Published, Values, method_key, unique


class PublishedTable(Published):
    """A table of pairs x methods as its source prints it; values in percent."""

    kind: Literal["table"] = "table"
    #: the columns, `teacher:student`
    pairs: tuple[str, ...] = Field(min_length=1)
    teacher: Values | None = None
    student: Values | None = None
    #: by method key, or by printed name for a method that the benchmark does not have
    rows: dict[Method, Values]
    #: gains over the base method as the source prints them, in points, by method key
    gains: dict[Method, Values] = {}
    #: standard deviations over runs as the source prints them, in points, by method key
    std: dict[Method, Values] = {}
    #: rows that are `unsure` in a table that is `read`
    unsure: tuple[Method, ...] = ()
    #: rows of the last epoch in a table of another one: copied from a source that prints the last
    last_epoch: tuple[Method, ...] = ()

    @field_validator("rows", "gains", "std", mode="before")
    @classmethod
    def _once(cls, rows: Any, info: ValidationInfo) -> Any:
        """Refuse a method that is given under both its key and its title: a mapping by key would keep only one."""
        if isinstance(rows, Mapping):
            unique(str(info.data.get("id")), "method", (method_key(str(name)) for name in rows))
        return rows

    @model_validator(mode="after")
    def _rectangular(self) -> PublishedTable:
        unique(self.id, "pair", self.pairs)
        for pair in self.pairs:
            self.check_pair("pairs", pair)
        for method in self.rows:
            self.check_method(method)
        for name, row in {"teacher": self.teacher, "student": self.student, **self.rows}.items():
            if row is not None:
                self.check(name, row, len(self.pairs), "pairs")
        for name, row in self.gains.items():
            if name not in distillers.registry or distillers.registry.get(name).base not in self.rows:
                raise ValueError(f"{self.id}, gains {name}: the table has no row of its base method")
            if len(row) != len(self.pairs):
                raise ValueError(f"{self.id}, gains {name}: {len(row)} values for {len(self.pairs)} pairs")
        for name, row in self.std.items():
            if len(row) != len(self.pairs) or not all(value is None or 0 <= value < 10 for value in row):
                raise ValueError(f"{self.id}, std {name}: must be {len(self.pairs)} numbers of points below 10")
        if missing := {*self.gains, *self.std, *self.unsure, *self.last_epoch} - set(self.rows):
            raise ValueError(f"{self.id}: no row {', '.join(sorted(missing))}")
        return self

    def value(self, pair: str, method: str) -> float | None:
        """Accuracy of a method (`vanilla`: of the student alone), or None where none is printed."""
        return self._cell(pair, self.student if method == VANILLA else self.rows.get(method_key(method)))

    def teacher_value(self, pair: str) -> float | None:
        """Accuracy of a pair's teacher, or None where none is printed."""
        return self._cell(pair, self.teacher)

    def printed_gain(self, pair: str, method: str) -> float | None:
        """Gain over the base method as the source prints it, in points; `notes` says where it is wrong."""
        return self._cell(pair, self.gains.get(method_key(method)))

    def printed_std(self, pair: str, method: str) -> float | None:
        """Standard deviation over runs as the source prints it, in points."""
        return self._cell(pair, self.std.get(method_key(method)))

    def confidence_of(self, method: str) -> Confidence:
        """Confidence of a method's row."""
        return "unsure" if method_key(method) in self.unsure else self.confidence

    def epoch_of(self, method: str) -> Epoch:
        """The epoch of a method's row."""
        return "last" if method_key(method) in self.last_epoch else self.epoch

    def _cell(self, pair: str, row: Values | None) -> float | None:
        return row[self.pairs.index(pair)] if row is not None and pair in self.pairs else None


class PublishedValue(NamedTuple):
    """A number from the literature, in the unit of its table."""

    value: float
    table: str
    source: str
    confidence: Confidence
    epoch: Epoch
