"""Plans: what is laid over what, and errors that name the field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import distillers
from benchmark.config import RunConfig, validated
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from tests.conftest import SMALL_SUITE as SMALL
from tests.conftest import make_config


@pytest.fixture
def small(tmp_path: Path) -> suite.Suite:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return suite.load(str(path))


def config(plan: Plan, method: str, teacher: str | None = "resnet8") -> Any:
    return next(r.config for r in plan.runs if r.config.method == method and r.config.teacher in (None, teacher))


def test_the_later_layer_wins(small: suite.Suite) -> None:
    plan = make_plan(small)
    assert config(plan, "kd").recipe.lr == 0.04  # the student's over the suite's
    assert config(plan, "sdd_kd").recipe.lr == 0.03  # the method's over the student's
    assert config(plan, "kd").parameters["kd"]["temperature"] == 5  # the pair's over the method's
    assert config(plan, "kd", "resnet20").parameters["kd"]["temperature"] == 3
    assert config(plan, "sdd_kd").parameters["sdd"]["beta"] == 3
    assert config(plan, "sdd_kd", "resnet20").parameters["sdd"]["beta"] == 2
    changed = make_plan(small, assignments=["kd.temperature=7", "recipe.lr=0.2", "sdd.scales=1,4"])
    assert config(changed, "kd").parameters["kd"]["temperature"] == 7
    assert config(changed, "sdd_kd").recipe.lr == 0.2
    assert config(changed, "sdd_kd").parameters["sdd"]["scales"] == [1, 4]


def test_methods_on_request_have_their_settings_and_do_not_run_without_one(small: suite.Suite) -> None:
    asked = small.model_copy(update={"on_request": {"dkd": {"dkd": {"beta": 5}, "recipe": {"lr": 0.2}}}})
    assert make_plan(asked).runs == make_plan(small).runs
    dkd = config(make_plan(asked, methods=["later"]), "dkd")
    assert (dkd.parameters["dkd"]["beta"], dkd.recipe.lr) == (5, 0.2)
    assert config(make_plan(small, methods=["dkd"]), "dkd").parameters["dkd"]["beta"] == 8


def test_vanilla_runs_once_per_student_and_seed(small: suite.Suite) -> None:
    plan = make_plan(small)
    assert sorted(run.config.repetition for run in plan.runs if run.config.method == "vanilla") == [1, 2]
    assert len(plan.runs) == 2 + 2 * 2 * 2
    assert set(plan.teachers) == {"resnet8", "resnet20"}


def test_conventions_reach_methods_and_recipe(small: suite.Suite) -> None:
    code, paper = make_plan(small), make_plan(small, assignments=["convention=paper"])
    assert (config(code, "kd").recipe.clip_norm, config(paper, "kd").recipe.clip_norm) == (40.0, None)
    assert config(code, "sdd_kd").parameters["sdd"]["reduction"] == "mean"
    assert config(paper, "sdd_kd").parameters["sdd"]["reduction"] == "sum"
    assert config(make_plan(small, assignments=["recipe.clip_norm=null"]), "kd").recipe.clip_norm is None


def test_teachers_compute_in_bf16_where_the_device_does_it_fast(
    small: suite.Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def precision(*assignments: str, device: str = "cpu") -> str:
        plan = make_plan(small, assignments=assignments, device=device)
        return str(config(plan, "kd").teacher_precision)

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    assert (precision(), precision(device="cuda")) == ("fp32", "bf16")
    assert precision("teacher_precision=fp32", device="cuda") == "fp32"
    assert precision("precision=bf16") == "bf16"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 5))
    assert precision(device="cuda") == "fp32"


def test_rounding_a_teacher_leaves_results_comparable(small: suite.Suite) -> None:
    plan = make_plan(small, assignments=["teacher_cache=fp16", "teacher_precision=bf16"])
    assert config(plan, "kd").teacher_cache == "fp16"
    assert plan.changes == ()
    with pytest.raises(UserError, match=r"teacher_cache: .*fp16"):
        make_plan(small, assignments=["teacher_cache=fp8"])


def test_a_profile_is_smaller_and_says_so(small: suite.Suite) -> None:
    plan = make_plan(small, profile="smoke")
    assert (plan.name, plan.slug, plan.seeds) == ("small (smoke)", "small-smoke", 1)
    assert plan.experiment_name == plan.slug
    assert replace(plan, experiment="studies small").experiment_name == "studies small"
    assert plan.data.num_train == 64
    assert plan.teachers["resnet8"].recipe.epochs == 1


def test_a_profile_has_methods_of_its_own_unless_others_are_chosen(small: suite.Suite) -> None:
    form = suite.Profile(methods=["vanilla", "feature"], seeds=1)
    own = small.model_copy(update={"profiles": {"features": form}})
    plan = make_plan(own, profile="features")
    assert plan.methods[0] == "vanilla"
    assert {distillers.registry.get(method).sees for method in plan.methods[1:]} == {"map", "stages"}
    assert plan.file_name == "small-features"
    chosen = make_plan(own, profile="features", methods=["kd"])
    assert chosen.methods == ("kd",)
    assert chosen.file_name.startswith("small-features-")


def test_epochs_alone_keep_the_milestones_they_reach(small: suite.Suite) -> None:
    plan = make_plan(small, assignments=["recipe.epochs=6"])
    assert config(plan, "kd").recipe.milestones == (4,)


def test_the_teachers_recipe_is_not_the_students(small: suite.Suite) -> None:
    plan = make_plan(small, assignments=["recipe.lr=0.9"])
    assert plan.teachers["resnet8"].recipe.lr == 0.05


def test_signatures(small: suite.Suite) -> None:
    plan = make_plan(small)
    kd, vanilla = config(plan, "kd"), config(plan, "vanilla")
    assert kd.signature("data", "teacher") == kd.model_copy().signature("data", "teacher")
    assert kd.signature("data", "teacher") != kd.signature("data", "another")
    assert kd.signature("data", "teacher") != kd.signature("others", "teacher")
    assert vanilla.signature("data", "teacher") == vanilla.signature("data", None)
    for change in ({"repetition": 5}, {"precision": "bf16"}, {"eval_every": 2}, {"base_seed": 9}, {"compile": True}):
        assert kd.model_copy(update=change).signature("data", "teacher") != kd.signature("data", "teacher")


def test_tuning_is_of_students_and_needs_a_validation_split(small: suite.Suite) -> None:
    with pytest.raises(UserError, match=r"^data.val_fraction: .* suite 'small' has none; add --set data.val_fraction="):
        make_plan(small, tuning=True)
    with pytest.raises(UserError, match=r"--set tuning: unknown key"):
        make_plan(small, assignments=["tuning=true", "data.val_fraction=0.1"])
    usual = make_plan(small, assignments=["data.val_fraction=0.1"])
    plan = make_plan(small, assignments=["data.val_fraction=0.1"], tuning=True)
    assert all(run.config.tuning for run in plan.runs)
    assert plan.teachers == usual.teachers
    assert not any(teacher.tuning for teacher in plan.teachers.values())
    own = make_plan(small.model_copy(update={"data": {"name": "digits", "val_fraction": 0.2}}), tuning=True)
    assert own.data.val_fraction == 0.2
    kd = config(plan, "kd")
    assert kd.signature("data", "teacher") != config(usual, "kd").signature("data", "teacher")
    with pytest.raises(UserError) as caught:
        validated(RunConfig, "run", {**kd.model_dump(), "data": {"name": "digits"}})
    assert str(caught.value) == (
        "run.tuning: runs are ranked on the validation split: set data.val_fraction above 0 (got True)"
    )


def test_signatures_are_those_of_runs_on_record() -> None:
    """A field more or less, another default or another `numerics_version` makes other runs: say so by a new file."""
    pinned = json.loads((Path(__file__).parents[2] / "golden" / "signatures.json").read_text())
    for name, expected in pinned.items():
        plan = make_plan(suite.load(name))
        found = {f"teacher {model}": one.signature("digest", None) for model, one in plan.teachers.items()}
        for run in plan.runs:
            if run.pair is plan.pairs[0] and run.config.repetition == 1:
                found[run.config.method] = run.config.signature("digest", "checksum")
        assert {key: found.get(key) for key in expected} == expected, name


def test_runs_that_are_not_for_tuning_have_the_signatures_they_had_before_there_was_any() -> None:
    """At numerics version 2; stored runs and teachers stay what they are."""
    signatures = {name: make_config(name).signature("data", "teacher") for name in ("vanilla", "kd")}
    assert signatures == {"vanilla": "504580418beb5fc5", "kd": "276408f31eb23fec"}


def test_a_title_is_what_a_run_is_called(small: suite.Suite) -> None:
    run = next(run for run in make_plan(small).runs if run.config.method == "kd")
    assert (run.label, dict(run.tags)) == ("resnet8 -> resnet8_half, kd, seed 1", {})
    assert replace(run, title="trial 12, seed 1").label == "trial 12, seed 1"


def test_runs_are_paired_by_seed_across_methods_and_teachers(small: suite.Suite) -> None:
    plan = make_plan(small)
    for repetition in (1, 2):
        assert len({run.config.seed for run in plan.runs if run.config.repetition == repetition}) == 1
    assert config(plan, "kd").seed != plan.teachers["resnet8"].seed


def test_a_student_alone_has_one_recipe(tmp_path: Path) -> None:
    pairs = [{**SMALL["pairs"][0], "recipe": {"lr": 0.5}}, SMALL["pairs"][1]]
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "pairs": pairs}))
    with pytest.raises(UserError, match="train resnet8_half by vanilla with different settings"):
        make_plan(suite.load(str(path)))


def test_where_images_are_kept_changes_nothing(tmp_path: Path) -> None:
    folder = suite.load("folder")
    here = make_plan(folder, assignments=["data.path=x"])
    there = make_plan(folder, assignments=["data.path=x", "data.memory_gb=3", "data.cache=elsewhere"])
    assert there.changes == here.changes == ()
    assert there.runs[0].config.signature("d", None) == here.runs[0].config.signature("d", None)


def test_which_images_are_used_is_a_choice_of_the_plan() -> None:
    """Files of two choices have two names; how images are seen is a change."""
    folder = suite.load("folder")
    birds, cars = (make_plan(folder, assignments=[f"data.path={path}"]) for path in ("birds", "cars"))
    assert birds.changes == cars.changes == ()
    assert len({plan.file_name for plan in (birds, cars, make_plan(folder))}) == 3
    assert make_plan(folder, assignments=["data.path=birds", "data.image_size=64"]).changes == ("data.image_size=64",)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (("weak", "stronk"), "distiller 'mlkd': unknown view 'stronk'; did you mean 'strong'?"),
        (("strong",), "distiller 'mlkd': views strong: must hold 'weak', and each view once"),
    ],
)
def test_a_view_that_does_not_exist_is_refused(
    views: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be trained on as one more random crop."""
    monkeypatch.setattr(distillers.registry.get("mlkd"), "views", views)
    with pytest.raises(UserError, match=re.escape(message)):
        make_plan(suite.load("digits"), methods=["mlkd"])


ERRORS = {
    "methods": ({"methods": ["sdd_kdd"]}, r"unknown distiller 'sdd_kdd'; did you mean 'sdd_kd'\?.*list methods"),
    "pairs": ({"pairs": ["resnet8:resnet8_hlf"]}, r"unknown model 'resnet8_hlf'; did you mean 'resnet8_half'\?"),
    "pair form": ({"pairs": ["resnet8"]}, "write it as teacher:student"),
    "profile": ({"profile": "smok"}, r"no profile 'smok'; did you mean 'smoke'\?"),
    "key": ({"assignments": ["sddd.beta=4"]}, r"--set sddd: unknown key; did you mean 'sdd'\?"),
    "field": ({"assignments": ["sdd.betta=4"]}, r"sdd.betta: unknown.*did you mean 'beta'\?"),
    "recipe field": ({"assignments": ["recipe.epoch=4"]}, r"recipe.epoch: unknown key; did you mean 'epochs'\?"),
    "type": ({"assignments": ["recipe.lr=fast"]}, r"recipe.lr: input should be a valid number.*\(got 'fast'\)"),
    "range": ({"assignments": ["recipe.momentum=1"]}, r"recipe.momentum: input should be less than 1 \(got 1\)"),
    "beta range": ({"assignments": ["sdd.beta=-1"]}, r"sdd.beta: must be greater than or equal to 0, got -1"),
    "scales": ({"assignments": ["sdd.scales=2,1"]}, r"sdd.scales: must be one or more whole numbers"),
    "convention": ({"assignments": ["convention=codes"]}, "convention: 'codes' is neither 'code' nor 'paper'"),
    "precision": ({"assignments": ["precision=fp8"]}, r"--set precision: input should be 'fp32' or 'bf16'"),
    "form": ({"assignments": ["sdd.beta"]}, "write it as group.key=value"),
    "group without field": ({"assignments": ["sdd=4"]}, r"--set sdd: a group of fields"),
    "data": ({"assignments": ["data.name=cifar10"]}, r"unknown data set 'cifar10'; did you mean 'cifar100'\?"),
    "milestones": ({"assignments": ["recipe.milestones=a,b"]}, r"recipe.milestones.0: input should be a valid integer"),
    "one milestone": ({"assignments": ["recipe.milestones=5"]}, r"recipe.milestones: input should be a valid tuple"),
    "data options": ({"assignments": ["data.options=5"]}, r"data.options: input should be a valid dictionary"),
    "option type": (
        {"assignments": ["data.name=folder", "data.image_size=abc"]},
        r"data.image_size: input should be a valid integer.*\(got 'abc'\)",
    ),
    "data option": ({"assignments": ["data.pth=x"]}, r"data.pth: unknown key"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_name_the_field_and_the_way_out(small: suite.Suite, case: str) -> None:
    choices, message = ERRORS[case]
    with pytest.raises(UserError, match=message) as caught:
        make_plan(small, **choices)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
