"""Hyperparameters: conventions, conversion, and messages that help."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import distillers
from benchmark.errors import UserError
from distillers.regions import complementary_regions

SDD = {
    "code": {"complementary": "label", "reduction": "mean", "global_from": "cell", "grids": "from_4x4"},
    "paper": {"complementary": "prediction", "reduction": "sum", "global_from": "logits", "grids": "map"},
}
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("sdd_kd", "code"): {"warmup_epochs": 0, "temperature": 4, "ce_weight": 0.1, "weight": 0.9},
    ("sdd_kd", "paper"): {"warmup_epochs": 30, "temperature": 4, "ce_weight": 0.1, "weight": 0.9},
    ("sdd_dkd", "code"): {"warmup_epochs": 20, "temperature": 4, "alpha": 1, "beta": 8, "ce_weight": 1},
    ("sdd_dkd", "paper"): {"warmup_epochs": 30, "temperature": 4, "alpha": 1, "beta": 8, "ce_weight": 1},
    ("sdd_nkd", "code"): {"warmup_epochs": 20, "temperature": 4, "gamma": 8, "keep_target": True},
    ("sdd_nkd", "paper"): {"warmup_epochs": 30, "temperature": 1, "gamma": 1.5, "keep_target": False},
    ("sdd_mlkd", "code"): {"masks": "fraction", "weak_logits_at": [2, 6], "strong_relations": False},
    ("sdd_mlkd", "paper"): {"masks": "select", "weak_logits_at": [], "strong_relations": True, "warmup_epochs": 30},
    ("mlkd", "code"): {"masks": "fraction", "weak_logits_at": [2, 6], "strong_relations": False, "warmup_epochs": 0},
    ("mlkd", "paper"): {"masks": "select", "weak_logits_at": [], "strong_relations": True, "warmup_epochs": 0},
}


@pytest.mark.parametrize(("name", "convention"), OWN)
def test_conventions(name: str, convention: str) -> None:
    parameters = distillers.create(name, convention=convention).parameters()
    assert OWN[name, convention].items() <= parameters[name.removeprefix("sdd_")].items()
    if name.startswith("sdd_"):
        assert parameters["sdd"] == {
            **SDD[convention],
            "scales": [1, 2, 4],
            "beta": 2,
            "consistent": 1,
            "weights": "region",
        }


@pytest.mark.parametrize("name", ["kd", "dkd", "nkd", "vanilla"])
def test_conventions_leave_the_base_methods_alone(name: str) -> None:
    code, paper = (distillers.create(name, convention=convention) for convention in ("code", "paper"))
    assert code.parameters() == paper.parameters()


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("name", distillers.names())
def test_each_field_can_be_set_alone(name: str, convention: str) -> None:
    preset = distillers.create(name, convention=convention).parameters()
    other = distillers.create(name, convention="paper" if convention == "code" else "code").parameters()
    for group, fields in preset.items():
        for field in fields:
            changed = {**preset, group: {**fields, field: other[group][field]}}
            mixed = distillers.create(name, convention=convention, **{group: {field: other[group][field]}})
            assert mixed.parameters() == changed


def test_values_from_text() -> None:
    distiller = distillers.create(
        "sdd_nkd", nkd={"gamma": "1e-2", "keep_target": "false"}, sdd={"scales": "1,4", "beta": "4"}
    )
    assert distiller.parameters()["nkd"]["gamma"] == 0.01
    assert distiller.parameters()["nkd"]["keep_target"] is False
    assert distiller.scales == (1, 4)
    assert distillers.create("sdd_kd", sdd={"scales": 2}).scales == (2,)
    assert distillers.create("mlkd", mlkd={"temperatures": "[1, 3.5]"}).parameters()["mlkd"]["temperatures"] == [1, 3.5]


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("sdd_kdd", {}, "unknown distiller 'sdd_kdd'; did you mean 'sdd_kd'?"),
        ("sdd_dkd", {"dkdd": {}}, "dkdd: no group of sdd_dkd; did you mean 'dkd'? it has dkd, sdd"),
        ("vanilla", {"kd": {}}, "kd: no group of vanilla; it has no hyperparameters"),
        ("sdd_kd", {"sdd": {"bta": 2}}, "sdd.bta: unknown; did you mean 'beta'? sdd has scales, beta"),
        ("sdd_kd", {"sdd": {"beta": -1}}, "sdd.beta: must be greater than or equal to 0, got -1"),
        ("sdd_kd", {"sdd": {"beta": "two"}}, "sdd.beta: must be a valid number"),
        ("sdd_kd", {"sdd": {"beta": True}}, "sdd.beta: cannot be true or false, got True"),
        ("sdd_kd", {"sdd": {"beta": "inf"}}, "sdd.beta: must be a finite number"),
        ("sdd_kd", {"sdd": {"complementary": "teacher"}}, "sdd.complementary: must be 'label' or 'prediction'"),
        ("sdd_kd", {"sdd": {"consistent": -1}}, "sdd.consistent: must be greater than or equal to 0, got -1"),
        ("sdd_kd", {"sdd": {"weights": "none"}}, "sdd.weights: must be 'region', 'mean' or 'shuffled', got 'none'"),
        ("sdd_kd", {"sdd": 2}, "sdd: takes fields by name (scales, beta"),
        ("sdd_kd", {"convention": "peper"}, "convention: 'peper' is neither 'code' nor 'paper'"),
        ("kd", {"kd": {"temperature": 0}}, "kd.temperature: must be greater than 0, got 0"),
        ("kd", {"kd": {"warmup_epochs": 1.5}}, "kd.warmup_epochs: must be a valid integer"),
        ("mlkd", {"mlkd": {"temperatures": []}}, "mlkd.temperatures: "),
        *(
            ("sdd_kd", {"sdd": {"scales": scales}}, "sdd.scales: must be one or more whole numbers from 1 to 16")
            for scales in ([], [4, 1], [1, 1], [0, 1], [1, 17])
        ),
        ("sdd_kd", {"sdd": {"scales": ["a"]}}, "sdd.scales: must be a valid integer"),
    ],
)
def test_errors_name_field_and_way_out(name: str, groups: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        distillers.create(name, **groups)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def outputs(predictions: list[int], whole: int) -> distillers.Outputs:
    eye = torch.eye(4)
    return distillers.Outputs(eye[[whole]], eye[predictions][None])


def test_what_is_complementary() -> None:
    """Both wrong, with different classes: complementary for the paper, consistent for the code."""
    target, teacher = torch.tensor([0]), outputs([1, 0, 1, 2, 3], whole=2)

    def found(rule: Any, source: Any) -> list[bool]:
        found_BR = complementary_regions(teacher, target, (1, 2), rule, source)
        return [bool(region) for region in found_BR[0]]

    assert found("label", "cell") == [False, True, False, False, False]
    assert found("prediction", "cell") == [False, True, False, True, True]
    assert found("prediction", "logits") == [True, True, True, False, True]
    assert complementary_regions(outputs([1, 2, 0, 2], 2), target, (2,), "prediction", "cell").tolist() == [
        [True, False, True, False]
    ]
