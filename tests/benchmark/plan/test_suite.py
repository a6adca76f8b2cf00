"""Suite files are checked to the last key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from tests.conftest import SMALL_SUITE as SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, r"seeds: input should be greater than or equal to 1 \(got 0\)"),
        ({"seeds": 10**17}, r"seeds: input should be less than or equal to 1000 \(got 1"),
        ({"name": "../up"}, r"name: a name that starts with '.' or '-'.* \(got '../up'\)"),
        ({"title": "two\nlines"}, r"title: a text that has a line end"),
        ({"name": "a/b"}, r"name: a name that has a slash or a quote"),
        ({"name": "it's"}, r"name: a name that has a slash or a quote"),
        ({"name": "x" * 300}, r"name: a name that has 300 bytes; at most 80"),
        ({"profiles": {"../up": {}}}, r"profiles.../up.*: a name that starts with '.'"),
        ({"sedes": 3}, r"sedes: unknown key; did you mean 'seeds'\?"),
        ({"pairs": []}, "pairs: list should have at least 1 item"),
        ({"pairs": [{"teacher": "resnet8"}]}, r"pairs.0.student: field required"),
        ({"recipe": {"lr": "1e-2"}}, None),
        (
            {"recipe": {"epochs": 6, "milestones": [4, 9]}},
            r"recipe.milestones: 9 is not before the last epoch, 6: the rate would never drop there",
        ),
        ({"students": {"resnet8_half": {"epochs": 4, "milestones": [4]}}}, r"students.resnet8_half.milestones: 4 is"),
        ({"methods": {"kd": {"recipe": {"epochs": 4, "milestones": [5]}}}}, r"methods.kd.recipe.milestones: 5 is"),
        ({"profiles": {"tiny": {"recipe": {"epochs": 1, "milestones": [1]}}}}, r"profiles.tiny.recipe.milestones: 1"),
        ({"profiles": {"own": {"methods": ["kdd"]}}}, r"unknown distiller 'kdd'; did you mean 'kd'\?"),
        ({"methods": {"kdd": {}}}, r"unknown distiller 'kdd'; did you mean 'kd'\?"),
        ({"on_request": {"dkd": {"kd": {}}}}, r"on_request.dkd.kd: unknown key; did you mean 'dkd'\?"),
        ({"on_request": {"kd": {}}}, r"on_request.kd: stands under `methods` too"),
        ({"methods": {"kd": {"sdd": {}}}}, r"methods.kd.sdd: unknown key; known: kd, recipe"),
        ({"methods": {"kd": {"receipe": {}}}}, r"methods.kd.receipe: unknown key; did you mean 'recipe'\?"),
        ({"methods": {"kd": {"kd": {"temprature": 1}}}}, r"methods.kd.kd.temprature.*did you mean 'temperature'\?"),
        ({"students": {"resnet8_hlf": {}}}, r"unknown model 'resnet8_hlf'; did you mean 'resnet8_half'\?"),
        (
            {"pairs": [{"teacher": "resnet8", "student": "resnet8_half", "parameters": {"dkdd": {}}}]},
            r"pairs.0.parameters.dkdd: unknown key; did you mean 'dkd'\?",
        ),
    ],
)
def test_suite_files_are_checked(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **change}))
    if message is None:  # YAML reads 1e-2 as text; it is a number all the same
        plan = make_plan(suite.load(str(path)))
        assert plan.teachers["resnet8"].recipe.lr == 0.01
        return
    with pytest.raises(UserError, match=message):
        suite.load(str(path))


def test_unknown_suites_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown suite 'cifar10'; did you mean 'cifar100'\?.*list suites"):
        suite.load("cifar10")
    with pytest.raises(UserError, match="does not exist"):
        suite.load(str(tmp_path / "none.yaml"))
    (tmp_path / "broken.yaml").write_text("pairs: [")
    with pytest.raises(UserError, match="not valid YAML"):
        suite.load(str(tmp_path / "broken.yaml"))
