"""Differences between the trials of a study, paired by seed, for the one rule to decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.analysis.decision import Decision, Outcome
from studies.figures import completed

if TYPE_CHECKING:
    import pandas as pd


def by_seed(frame: pd.DataFrame, parameters: Sequence[str]) -> defaultdict[tuple[Any, ...], pd.Series[float]]:
    """Validation accuracy by seed, in percent, of completed trials, by the values of `parameters`; empty without one.

    Of several trials with the same values, the first.
    """
    import pandas as pd  # takes a second to import: only what has trials waits for it

    done = completed(frame, "values", *parameters)
    found: defaultdict[tuple[Any, ...], pd.Series[float]] = defaultdict(lambda: pd.Series(dtype=float))
    for *levels, values in zip(*(done[name] for name in (*parameters, "values")), strict=True):
        if isinstance(values, Mapping) and tuple(levels) not in found:
            by_number = {int(seed): float(value) for seed, value in values.items()}
            found[tuple(levels)] = pd.Series(by_number, dtype=float)
    return found


def by_outcome(decided: Iterable[tuple[str, Decision]]) -> str:
    """List names by the outcome of their difference: `holds here for KD, DKD; open for NKD`."""
    named = list(decided)
    parts = []
    for outcome in Outcome:
        names = [name for name, decision in named if decision.outcome is outcome]
        if names:
            parts.append(f"{outcome.value} for {', '.join(names)}")
    return "; ".join(parts)
