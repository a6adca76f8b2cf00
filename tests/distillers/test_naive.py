"""Every method equals its plain-Python double on random inputs and hyperparameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import distillers
from distillers import Outputs
from tests.distillers import naive
from tests.distillers.batches import random_batch

METHODS = ["kd", "dkd", "nkd", "mlkd", "sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_mlkd"]
SCALES = [(1,), (1, 2), (1, 2, 4), (1, 4), (2,), (2, 4), (1, 3), (1, 2, 4, 8)]

temperature = st.floats(0.5, 6)
weight = st.floats(0, 10)
common = {"ce_weight": weight, "weight": weight, "warmup_epochs": st.integers(0, 40)}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "kd": {**common, "temperature": temperature},
    "dkd": {**common, "temperature": temperature, "alpha": weight, "beta": weight},
    "nkd": {**common, "temperature": temperature, "gamma": weight, "keep_target": st.booleans()},
    "mlkd": {
        **common,
        "temperatures": st.lists(st.sampled_from([2.0, 3.0, 4.0, 6.0]), min_size=1, max_size=2),
        "masks": st.sampled_from(["fraction", "select"]),
        "weak_logits_at": st.sampled_from([[], [2.0, 6.0]]),
        "strong_relations": st.booleans(),
    },
    "sdd": {
        "scales": st.sampled_from(SCALES),
        "beta": weight,
        "consistent": weight,
        "weights": st.sampled_from(["region", "mean", "shuffled"]),
        "complementary": st.sampled_from(["label", "prediction"]),
        "reduction": st.sampled_from(["mean", "sum"]),
        "global_from": st.sampled_from(["cell", "logits"]),
        "grids": st.sampled_from(["map", "from_4x4"]),
    },
}


def as_lists(views: dict[str, Outputs]) -> dict[str, Any]:
    return {view: Outputs(*(x.detach().tolist() for x in (seen.logits, seen.regions))) for view, seen in views.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_plain_python(name: str, data: st.DataObject) -> None:
    chosen = {
        group: data.draw(st.fixed_dictionaries({}, optional=FIELDS[group]), label=group)
        for group in distillers.groups(name)
    }
    convention = data.draw(st.sampled_from(["code", "paper"]))
    distiller = distillers.create(name, convention=convention, **chosen)
    batch, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 5))
    student, teacher, target = random_batch(distiller, data.draw(st.integers(0, 10**6)), batch, classes)
    epoch = data.draw(st.integers(1, 50))
    expected = naive.losses(name, as_lists(student), as_lists(teacher), target.tolist(), epoch, distiller.parameters())
    for moment in (epoch, torch.tensor(epoch, dtype=torch.float64)):
        losses = distiller.losses(student, teacher, target, moment)
        assert losses.keys() == expected.keys()
        for term, value in losses.items():
            assert value.item() == pytest.approx(expected[term], rel=1e-9, abs=1e-10), term
