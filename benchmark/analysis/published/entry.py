"""The fields that every published entry has, and the checks of its content.

Everything is checked on reading: unknown keys, ragged rows, values out of range, networks and methods that are not
written with this project's keys, values of a factor that the distiller's own field refuses. A failed check is a
ValueError that names the entry and the row. A method that is registered later under a title that a paper prints
(`DIST`) takes over the rows of that name: they are read under its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

import distillers
import models
from benchmark import datasets
from benchmark.config import Frozen
from benchmark.errors import among

Confidence = Literal["read", "unsure"]
#: the epoch whose accuracy is printed: the best on the test set, or the last
Epoch = Literal["best", "last", "unknown"]
Text = Annotated[str, Field(min_length=1)]
#: printed values, None where the source prints none
Values = tuple[float | None, ...]
#: a value of a factor: a number, a scale set, or a name
Level = float | tuple[float, ...] | str

#: our figure of the same choice of epoch, the best where the source does not say
COLUMNS: Mapping[Epoch, Literal["best_test", "last"]] = {"best": "best_test", "last": "last", "unknown": "best_test"}
#: the same in words, for captions
WORDS: Mapping[Epoch, str] = {
    "best": "best epoch on the test set, as published",
    "last": "last epoch, as published",
    "unknown": "best epoch on the test set; which one is published is not said",
}

#: method key of the student trained without a teacher: its published value is the table's student accuracy
VANILLA = "vanilla"

T = TypeVar("T")


def method_key(name: str) -> str:
    """Resolve a registered distiller's title to its key; keys, and printed names of other methods, stay as they are."""
    if name in distillers.registry:
        return name
    return next((key for key in distillers.names() if distillers.registry.get(key).title == name), name)


def _data_set(name: str) -> str:
    """Return the name of a registered data set. Raises ValueError else."""
    known = datasets.registry.names()
    if name not in known:
        raise ValueError(f"no data set '{name}'{among(name, known)}")
    return name


#: a method in an entry: by key or by printed name in YAML, by key (where it has one) once it is read
Method = Annotated[str, AfterValidator(method_key)]


class Published(Frozen):
    """The fields that every entry has."""

    id: Text
    title: Text
    source: Text
    #: `read`: in the named source itself; `unsure`: second-hand, derived or partly legible
    confidence: Confidence
    #: the images: a registered data set
    data: Annotated[str, AfterValidator(_data_set)]
    metric: Text = "top-1 accuracy"
    unit: Literal["percent", "ms", "s"] = "percent"
    #: which epoch is reported and over how many runs, as far as it is known
    selection: Text
    epoch: Epoch = "unknown"
    #: misprints and contradictions that touch the values, one sentence each
    notes: tuple[Text, ...] = ()

    def check(self, row: str, values: Values, num: int, columns: str) -> None:
        """Raise ValueError unless a row has `num` values, each positive and, if the unit is percent, in percent."""
        if len(values) != num:
            raise ValueError(f"{self.id}, row {row}: {len(values)} values for {num} {columns}")
        printed = [value for value in values if value is not None]
        # above 1: an accuracy written as a fraction is refused too
        if self.unit == "percent" and not all(1 < value <= 100 for value in printed):
            raise ValueError(f"{self.id}, row {row}: not in percent")
        if not all(value > 0 for value in printed):
            raise ValueError(f"{self.id}, row {row}: not positive")

    def check_pair(self, row: str, pair: str) -> None:
        """Raise ValueError unless `pair` is `teacher:student` with networks of this project."""
        for network in pair.split(":"):
            self.check_network(row, network)
        if pair.count(":") != 1:
            raise ValueError(f"{self.id}, row {row}: '{pair}' is not teacher:student")

    def check_network(self, row: str, network: str) -> None:
        """Raise ValueError unless `network` is a network of this project."""
        if network not in models.registry:
            raise ValueError(f"{self.id}, row {row}: no network '{network}'")

    def check_method(self, method: str) -> None:
        """Raise ValueError unless `method` is a registered key or the printed name of an unregistered method.

        Printed names have a capital letter, keys have none: a misspelt key would silently lose its row.
        """
        if method == VANILLA or (method == method.lower() and method not in distillers.registry):
            raise ValueError(f"{self.id}, row {method}: neither a distiller's key nor a printed name")


def as_field(path: str, value: Level) -> Any:
    """Parse a value with the distiller's own field (`sdd.scales`); leave it as it is where `path` names no field.

    Raises ValueError when no distiller has the group, or its field refuses the value.
    """
    group, dot, field = path.partition(".")
    if not dot:
        return value
    owner = next((name for name in distillers.names() if group in distillers.groups(name)), None)
    if owner is None:
        raise ValueError(f"{path}: no distiller has the hyperparameters '{group}'")
    given: dict[str, Any] = {group: {field: value}}
    return getattr(distillers.create(owner, **given).values[group], field)


def unique(entry: str, what: str, names: Iterable[T]) -> None:
    """Raise ValueError when a name appears twice."""
    seen: list[T] = []
    for name in names:
        if name in seen:
            raise ValueError(f"{entry}: {what} {name} appears twice")
        seen.append(name)
