"""Published ablations, and other tables that are not pairs x methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from benchmark.analysis.published.entry import Level, Method, Published, Text, Values, as_field, method_key, unique
from benchmark.config import Frozen


class SeriesRow(Frozen):
    """A row of a series: for a pair, a method, or whatever its label names."""

    pair: str | None = None
    #: method key, or printed name
    method: Method | None = None
    label: str | None = None
    values: Values

    def __str__(self) -> str:
        return " ".join(filter(None, (self.pair, self.method, self.label))) or "without a name"


class PublishedSeries(Published):
    """An ablation, or another table that is not pairs x methods: values over one factor."""

    kind: Literal["series"]
    #: a field of a distiller (`sdd.beta`, `sdd.scales`), `method`, `network`, or a name of the source's (`terms`)
    factor: Text
    #: the factor's values, read as the distiller reads them: 2.0, (1, 2), or a name
    levels: tuple[Level, ...] = Field(min_length=1)
    rows: tuple[SeriesRow, ...] = Field(min_length=1)

    @field_validator("levels")
    @classmethod
    def _parsed(cls, levels: tuple[Level, ...], info: ValidationInfo) -> tuple[Any, ...]:
        factor = info.data.get("factor", "")
        if factor == "method":
            return tuple(method_key(str(level)) for level in levels)
        return tuple(as_field(factor, level) for level in levels)

    @model_validator(mode="after")
    def _rectangular(self) -> PublishedSeries:
        unique(self.id, "level", self.levels)
        unique(self.id, "row", map(str, self.rows))
        for level in self.levels:
            if self.factor == "method":
                self.check_method(str(level))
            if self.factor == "network":
                self.check_network("levels", str(level))
        for row in self.rows:
            self.check(str(row), row.values, len(self.levels), "levels")
            if row.pair is not None:
                self.check_pair(str(row), row.pair)
            if row.method is not None:
                self.check_method(row.method)
        return self

    def points(
        self, pair: str | None = None, method: str | None = None, label: str | None = None
    ) -> tuple[tuple[Level, float], ...]:
        """Printed (level, value) of the only row that fits the arguments; empty when no row fits.

        Raises ValueError when several rows fit: name the method or the label too.
        """
        wanted = {"pair": pair, "method": method and method_key(method), "label": label}
        fits = [row for row in self.rows if all(value in (None, getattr(row, key)) for key, value in wanted.items())]
        if len(fits) > 1:
            raise ValueError(f"{self.id}: several rows fit: {', '.join(map(str, fits))}")
        return tuple(
            (level, value)
            for row in fits
            for level, value in zip(self.levels, row.values, strict=True)
            if value is not None
        )
