"""Differences between trials, paired by seed: which values meet, and what two studies say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

import distillers
from studies import paired
from studies.questions import ls_or_sdd, sdd_over_methods
from studies.questions.ls_or_sdd import LSOrSDD
from studies.questions.sdd_over_methods import SDDOverMethods

NOISE = (0.3, -0.1, -0.2)


def trials(rows: Sequence[tuple[Mapping[str, Any], Sequence[float]]]) -> pd.DataFrame:
    """Completed trials with these parameters and these values of seeds 1, 2, ..."""
    return pd.DataFrame(
        {
            "number": number,
            "state": "complete",
            "value": sum(values) / len(values),
            "std": 0.1,
            "num_seeds": len(values),
            "values": {str(seed): value for seed, value in enumerate(values, 1)},
            **parameters,
        }
        for number, (parameters, values) in enumerate(rows)
    )


def test_values_of_a_trial_by_seed() -> None:
    frame = trials([({"form": "alone", "method": "kd"}, (70.0, 71.0)), ({"form": "mean", "method": "kd"}, (72.0,))])
    found = paired.by_seed(frame, ("method", "form"))
    assert found["kd", "alone"].to_dict() == {1: 70.0, 2: 71.0}
    assert found["kd", "mean"].to_dict() == {1: 72.0}
    assert found["dkd", "alone"].empty
    assert paired.by_seed(frame, ("method",))["kd",].to_dict() == {1: 70.0, 2: 71.0}
    assert paired.by_seed(frame.assign(state="FAIL"), ("method",))["kd",].empty
    assert paired.by_seed(frame.drop(columns="values"), ("method",))["kd",].empty
    assert paired.by_seed(frame.drop(columns="method"), ("method",))["kd",].empty


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (0.0, "no evidence that they do not add up"),
        (2.0, "together they gain more than the sum"),
        (-2.0, "together they gain less than the sum"),
    ],
)
def test_interaction_is_what_both_gain_beyond_the_sum(extra: float, words: str) -> None:
    gains = {("without", "without"): 0.0, ("with", "without"): 1.0, ("without", "with"): 3.0, ("with", "with"): 4.0}
    rows = []
    for place, ((ls, sdd), gain) in enumerate(gains.items()):
        gain += extra if ls == sdd == "with" else 0.0
        # noise of its own, small beside the gains, shifted by a seed from point to point
        values = [70 + seed + gain + 0.1 * NOISE[(seed + place) % 3] for seed in range(3)]
        rows.append(({"base": "kd", "ls": ls, "sdd": sdd}, values))
    (sentence,) = LSOrSDD().findings(trials(rows))
    assert sentence.startswith("KD, gains in points [")
    assert "LS alone +1.00" in sentence
    assert "SDD alone +3.00" in sentence
    assert f"interaction {'−' if extra < 0 else '+'}{abs(extra):.2f}" in sentence
    assert sentence.endswith(f": {words}.")
    heading = LSOrSDD().draw(trials(rows), "", ()).axes[0].get_title(loc="left")
    assert heading.startswith("KD: interaction\n" + ("−" if extra < 0 else "+") + f"{abs(extra):.2f} [")


def test_forms_of_a_method_train_the_same_hyperparameters() -> None:
    """Only what decoupling is differs, so that NKD's other settings in SDD's released code are no gain of it."""
    assert set(sdd_over_methods.methods()) == {name.removeprefix("sdd_") for name in distillers.names("sdd_*")}
    views = [len(distillers.create(f"sdd_{name}").views) for name in sdd_over_methods.methods()]
    assert views == sorted(views) and views[0] < views[-1]
    assert {key for form in sdd_over_methods.FORMS.values() for key in form} == {"sdd.scales", "sdd.weights"}
    assert ls_or_sdd.LSOrSDD.at_once == len(LSOrSDD().grid())


def test_gains_over_method_and_control_are_decided_and_drawn() -> None:
    values = {"alone": 0.0, "decoupled": 3.0, "mean": 3.0}
    rows = [
        ({"method": "kd", "form": form}, [70 + seed + gain + 0.1 * NOISE[(seed + place) % 3] for seed in range(3)])
        for place, (form, gain) in enumerate(values.items())
    ]
    frame = trials(rows)
    over_method, control, over_control = SDDOverMethods().findings(frame)
    assert over_method.startswith("decoupled − method (") and over_method.endswith(": holds here for KD.")
    assert control.startswith("control − method (") and control.endswith(": holds here for KD.")
    assert over_control.startswith("decoupled − control (") and over_control.endswith(": open for KD.")
    axes = SDDOverMethods().draw(frame, "", ()).axes[0]
    row = sdd_over_methods.methods().index("kd")
    assert axes.get_yticklabels()[row].get_text() == "KD (71.0)"
    marks = {round(float(x), 2) for line in axes.lines if line.get_marker() in "os^" for x in line.get_xdata()}  # type: ignore[union-attr,operator]
    assert marks == {3.0, 0.0}
