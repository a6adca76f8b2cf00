"""Studies: a question, a space of choices, a budget, and the published answer that ours is drawn next to."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from optuna.trial import BaseTrial

from benchmark.analysis import published
from benchmark.registry import Registry

if TYPE_CHECKING:  # takes a second to import: only commands that draw wait for it
    import pandas as pd
    from matplotlib.figure import Figure

Sampler = Literal["grid", "tpe", "gp", "random"]
Pruner = Literal["none", "median", "hyperband", "wilcoxon"]


@dataclass(frozen=True)
class Choice:
    """The method of a trial, and the settings that it changes from the suite's, as `--set` does."""

    method: str
    #: `group.field`, `recipe.field` or `convention` -> value, e.g. {"sdd.beta": 4}
    settings: Mapping[str, Any]

    @property
    def assignments(self) -> tuple[str, ...]:
        """The settings as `--set` takes them."""
        return tuple(f"{key}={_text(value)}" for key, value in self.settings.items())

    @property
    def label(self) -> str:
        """The choice in words: `sdd_kd, sdd.beta=4`."""
        return ", ".join([self.method, *self.assignments])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


class PublishedLine(NamedTuple):
    """The points of one published table for one pair, shown next to ours."""

    #: the pair, as legends show it
    label: str
    #: the table, and its id
    title: str
    #: (a parameter's value as the study writes it, accuracy in percent)
    points: tuple[tuple[Any, float], ...]


def every(space: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], ...]:
    """All combinations of the parameters' values, the last parameter's varying fastest."""
    return tuple(dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))


class Study(ABC):
    """One question about a distiller, answered by a search on a validation split. One subclass per file."""

    #: registry key
    name: ClassVar[str]
    #: the question, in one sentence
    question: ClassVar[str]
    #: the answer of the literature, in one sentence, with its source
    published: ClassVar[str]
    #: ids of the published tables whose points are drawn next to ours: series over the factor that the study varies
    tables: ClassVar[tuple[str, ...]] = ()
    #: pairs of a suite that the study is meant for, the first if one pair is enough; any other may be chosen
    pairs: ClassVar[tuple[str, ...]] = ()
    sampler: ClassVar[Sampler] = "grid"
    pruner: ClassVar[Pruner] = "none"
    #: number of trials of a sampler; a grid has one per point
    trials: ClassVar[int] = 20
    #: trials asked for at once, before any ends: it affects the result, so it never depends on the machine
    at_once: ClassVar[int] = 4
    #: seeds that every trial is trained with
    seeds: ClassVar[int] = 1

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Choice:
        """Make the choice of a trial from the values that it suggests."""

    def grid(self) -> Sequence[Mapping[str, Any]]:
        """Every point of a grid as the parameters that `suggest` would ask for; empty for a sampler."""
        return ()

    @abstractmethod
    def baselines(self) -> Sequence[Choice]:
        """The choices that the winner is confirmed against: the published default, then the plain method, or others.

        They have no settings, since a suite's settings are the published ones of each of its pairs.
        """

    def figure(self, frame: pd.DataFrame, title: str = "", lines: Sequence[PublishedLine] | None = None) -> Figure:
        """Draw the study's own figure, with `lines` next to ours; None: all lines that its tables print."""
        return self.draw(frame, title, self.published_lines() if lines is None else lines)

    @abstractmethod
    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        """Draw the study's own figure, with published points next to ours.

        `frame` has one row per trial: `number`, `state` (Optuna's name, in any case), `value` (mean validation top-1 in
        percent), `std` and `num_seeds` over its seeds, `values` by seed, and one column per parameter; unknown values
        are missing.
        """

    def findings(self, frame: pd.DataFrame) -> Sequence[str]:
        """Say what the trials show, in sentences, with differences decided by the one rule; here nothing."""
        return ()

    def published_lines(self, pair: str | None = None) -> tuple[PublishedLine, ...]:
        """Lines that the study's tables print: of the pair, or of every pair of a table that does not have it.

        Raises:
            UserError: for an unknown table.
        """
        lines = []
        for name in self.tables:
            series = published.ablation(name)
            rows = [row for row in series.rows if row.pair == pair] or list(series.rows)
            for row in rows:
                points = series.points(row.pair, row.method, row.label)
                label = str(row.pair or row.label).replace(":", " → ")
                title = f"published: {series.title} ({name})"
                lines.append(PublishedLine(label, title, tuple((_level(level), value) for level, value in points)))
        return tuple(lines)


def _level(value: Any) -> Any:
    """Convert a published level to a parameter of a trial, which is a number or a text: `1,2,4` for scales."""
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value


registry: Registry[type[Study]] = Registry("study", "studies", listed_by="python -m benchmark.study")


def register(study: type[Study]) -> type[Study]:
    """Decorator: make a study available by its name. Raises ValueError when the name is taken."""
    registry.add(study.name, study)
    return study
