"""Trials of a study that nothing was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from studies.base import Study


def accuracy(parameters: Mapping[str, Any], noise: np.random.Generator) -> float:
    """Some accuracy that depends on every parameter."""
    value = 74.0
    for name, level in sorted(parameters.items()):
        if isinstance(level, str):
            value += sum(map(ord, name + level)) % 17 / 10
        else:
            value -= 0.5 * (math.log2(level + 1) - 1.6) ** 2
    return value + float(noise.normal(0, 0.2))


def synthetic(definition: Study, states: Mapping[int, TrialState] | None = None) -> optuna.Study:
    """Run a study whose trials end as `states` says by number, and as complete ones otherwise."""
    noise = np.random.default_rng(0)
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for point in definition.grid():
        made.enqueue_trial(dict(point))
    for _ in range(len(definition.grid()) or definition.trials):
        trial = made.ask()
        choice = definition.suggest(trial)
        state = (states or {}).get(trial.number, TrialState.COMPLETE)
        trial.set_user_attr("choice", choice.label)
        trial.set_user_attr("num_seeds", definition.seeds)
        std = 0.15 + 0.3 * float(noise.random()) if definition.seeds > 1 else 0.0
        value = accuracy(trial.params, noise) if state == TrialState.COMPLETE else None
        if definition.seeds > 1:
            trial.set_user_attr("std", std)
        if value is not None:
            middle = (definition.seeds + 1) / 2
            values = {str(seed): value + std * (seed - middle) for seed in range(1, definition.seeds + 1)}
            trial.set_user_attr("values", values)
        made.tell(trial, value, state=state)
    return made


def as_frame(made: optuna.Study) -> pd.DataFrame:
    """Return the trials as figures take them."""
    return pd.DataFrame(
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "std": trial.user_attrs.get("std"),
            "num_seeds": trial.user_attrs.get("num_seeds", 0),
            "values": trial.user_attrs.get("values", {}),
            "choice": trial.user_attrs.get("choice", ""),
            **trial.params,
        }
        for trial in made.trials
    )
