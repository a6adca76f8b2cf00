"""Differences between the trials of a study, paired by seed, for the one rule to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from benchmark.analysis.decision import Decision, Outcome
from studies.figures import completed

if TYPE_CHECKING:
    import pandas as pd


def by_seed(frame: pd.DataFrame, parameters: Mapping[str, Any]) -> pd.Series[float]:
    """Validation accuracy by seed, in percent, of the completed trial with these parameters; empty without one."""
    import pandas as pd  # takes a second to import: only what has trials waits for it

    done = completed(frame, "values", *parameters)
    for name, value in parameters.items():
        done = done[done[name] == value]
    values = next((value for value in done["values"] if isinstance(value, Mapping)), {})
    return pd.Series({int(seed): float(value) for seed, value in values.items()}, dtype=float)


def by_outcome(decided: Iterable[tuple[str, Decision]]) -> str:
    """List names by the outcome of their difference: `holds here for KD, DKD; open for NKD`."""
    named = list(decided)
    parts = []
    for outcome in Outcome:
        names = [name for name, decision in named if decision.outcome is outcome]
        if names:
            parts.append(f"{outcome.value} for {', '.join(names)}")
    return "; ".join(parts)
