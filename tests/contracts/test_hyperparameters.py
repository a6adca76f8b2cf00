"""Fields that are read from the source equal those of the imported classes, and are refused in the same words."""

from __future__ import annotations

import pytest

import distillers
from benchmark import hyperparameters
from benchmark.config import Recipe, validated
from benchmark.errors import UserError


def test_reading_equals_importing() -> None:
    own = [method for method in map(distillers.registry.get, distillers.names()) if "tests" not in method.__module__]
    known = {
        group: fields for method in own for group, one in method.groups.items() if (fields := tuple(one.model_fields))
    }
    assert hyperparameters.fields_by_group() == known and "sdd" in known
    assert hyperparameters.recipe_fields() == tuple(Recipe.model_fields)


@pytest.mark.parametrize("assignment", ["kd.temprature=4", "sdd.bta=4", "recipe.epoch=3"])
def test_a_wrong_field_is_refused_in_the_same_words(assignment: str) -> None:
    group, field = assignment.partition("=")[0].split(".")
    with pytest.raises(UserError) as read:
        hyperparameters.check_assignment(assignment)
    with pytest.raises(UserError) as imported:
        validated(Recipe, group, {field: 4}) if group == "recipe" else distillers.create(
            "sdd_kd", **{group: {field: 4}}
        )
    assert str(read.value) == str(imported.value)


def test_what_is_not_known_here_is_left_to_the_plan() -> None:
    for assignment in ("mine.weight=1", "precision=bf16", "data.path=x", "kd=3", "=", "kd.temperature=zero"):
        hyperparameters.check_assignment(assignment)
