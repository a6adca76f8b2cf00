"""What every suite promises; a new file is under test as soon as it exists."""

from __future__ import annotations

from functools import cache

import pytest

import distillers
import models
from benchmark import catalogue, datasets
from benchmark.analysis import published
from benchmark.config import RunConfig
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan

SUITES = catalogue.suites()
PROFILES = [(name, profile) for name in SUITES for profile in (None, *suite.load(name).profiles)]
#: suites with a profile for a first look, which is then held to be one
WITH_SMOKE = [name for name, profile in PROFILES if profile == "smoke"]


@cache
def plan_of(name: str, profile: str | None = None) -> Plan:
    return make_plan(suite.load(name), profile=profile)


def run_of(name: str, pair: str, method: str) -> RunConfig:
    plan = make_plan(suite.load(name), pairs=[pair], methods=[method], seeds=1)
    return plan.runs[0].config


@pytest.mark.parametrize("name", SUITES)
def test_names_exist(name: str) -> None:
    loaded = suite.load(name)
    assert loaded.name == name
    assert loaded.data["name"] in datasets.registry
    assert {*loaded.methods, *loaded.on_request} <= set(distillers.names())
    for pair in loaded.pairs:
        assert pair.teacher in models.registry
        assert pair.student in models.registry
        assert set(pair.methods) <= set(distillers.names())
    # settings for a student that no pair has would be without effect
    assert set(loaded.students) <= {pair.student for pair in loaded.pairs}
    assert len({pair.name for pair in loaded.pairs}) == len(loaded.pairs)


@pytest.mark.parametrize("name", SUITES)
def test_every_pair_is_in_a_published_table_it_names(name: str) -> None:
    loaded = suite.load(name)
    named = [published.load(table) for table in loaded.rebuilds]
    for pair in loaded.pairs:
        tables = [published.load(table) for table in pair.tables] or named
        assert not tables or any(pair.name in table.pairs for table in tables)
    for table in [*named, *map(published.load, loaded.further)]:
        assert {pair.name for pair in loaded.pairs} & set(table.pairs), f"{table.id} shares no pair with {name}"


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_plans(name: str, profile: str | None) -> None:
    plan = plan_of(name, profile)
    assert plan.runs
    assert {run.config.teacher for run in plan.runs} - {None} == set(plan.teachers)
    signatures = {run.config.signature("digest", f"checksum of {run.config.teacher}") for run in plan.runs}
    assert len(signatures) == len(plan.runs)
    for run in plan.runs:
        assert RunConfig.model_validate_json(run.config.model_dump_json()) == run.config
        assert run.config.distiller().parameters() == run.config.parameters


@pytest.mark.parametrize("name", WITH_SMOKE)
def test_smoke_is_small(name: str) -> None:
    full, small = plan_of(name), plan_of(name, "smoke")
    assert (small.pairs, small.methods) == (full.pairs, full.methods)
    assert small.seeds == 1
    assert small.data.num_train is not None
    assert small.data.num_test is not None
    assert sum(run.config.recipe.epochs for run in small.runs) * small.data.num_train < 50_000


@pytest.mark.parametrize(
    ("name", "pair", "method", "scales", "group", "field", "value"),
    [
        ("cifar100", "resnet32x4:resnet8x4", "sdd_dkd", [1, 2], "dkd", "beta", 8),
        ("cifar100", "resnet32x4:shufflenet_v1", "sdd_dkd", [1, 2, 4], "dkd", "beta", 8),
        ("cifar100", "resnet56:resnet20", "sdd_dkd", [1, 2], "dkd", "beta", 2),
        ("cifar100", "resnet110:resnet32", "sdd_nkd", [1, 2], "nkd", "gamma", 2),
        ("cifar100", "wrn_40_2:wrn_40_1", "sdd_dkd", [1, 2], "dkd", "beta", 6),
        ("cifar100", "vgg13:mobilenet_v2", "sdd_dkd", [1, 2, 4], "dkd", "beta", 6),
        ("cifar100", "wrn_40_2:mobilenet_v2", "sdd_nkd", [1, 2, 4], "nkd", "gamma", 6),
        ("cifar100", "wrn_40_2:vgg8", "sdd_nkd", [1, 2], "nkd", "gamma", 8),
        ("cifar100", "wrn_40_2:vgg8", "sdd_dkd", [1, 2, 4], "dkd", "beta", 8),
        ("cifar100", "resnet50:vgg8", "sdd_nkd", [1, 2], "nkd", "gamma", 8),
        ("cifar100", "vgg13:vgg8", "sdd_nkd", [1, 2], "nkd", "temperature", 4),
        ("cifar100", "vgg13:vgg8", "nkd", None, "nkd", "gamma", 1.5),
        ("cub", "vgg13:vgg8", "sdd_dkd", [1, 2, 4], "dkd", "beta", 6),
        ("cub", "vgg13:vgg8", "nkd", None, "nkd", "gamma", 6),
        ("cub", "resnet50:shufflenet_v1", "nkd", None, "nkd", "gamma", 8),
    ],
)
def test_hyperparameters_of_pairs(
    name: str, pair: str, method: str, scales: list[int] | None, group: str, field: str, value: float
) -> None:
    parameters = run_of(name, pair, method).parameters
    assert parameters[group][field] == value
    assert parameters.get("sdd", {}).get("scales") == scales


@pytest.mark.parametrize(
    ("pair", "method", "group", "fields"),
    [
        ("vgg13:vgg8", "ls_kd", "kd", {"temperature": 3, "weight": 9, "ce_weight": 0.1}),
        ("resnet50:mobilenet_v2", "sdd_ls_kd", "kd", {"temperature": 3, "weight": 1}),
        ("resnet32x4:resnet8x4", "ls_kd", "kd", {"temperature": 2, "weight": 9}),
        ("resnet32x4:resnet8x4", "ls_dkd", "dkd", {"temperature": 2, "weight": 9, "beta": 8}),
        ("wrn_40_2:mobilenet_v2", "ls_dkd", "dkd", {"temperature": 2, "weight": 15, "beta": 2}),
        ("wrn_40_2:wrn_40_1", "sdd_ls_dkd", "dkd", {"temperature": 2, "weight": 12, "beta": 2}),
        ("vgg13:mobilenet_v2", "ls_dkd", "dkd", {"temperature": 3, "weight": 9, "beta": 2}),
        ("resnet56:resnet20", "ls_dkd", "dkd", {"temperature": 3, "weight": 18, "beta": 2}),
        ("vgg13:vgg8", "ls_mlkd", "mlkd", {"weight": 6}),
        ("resnet32x4:shufflenet_v2", "ttm", "ttm", {"exponent": 0.4, "weight": 40}),
        ("resnet32x4:shufflenet_v2", "sdd_wttm", "wttm", {"exponent": 0.4, "weight": 16}),
        ("resnet32x4:mobilenet_v2", "ttm", "ttm", {"exponent": 0.1, "weight": 100}),
        ("resnet110:resnet32", "reviewkd", "reviewkd", {"weight": 1, "warmup_epochs": 20}),
        ("resnet32x4:shufflenet_v1", "cat_kd", "cat_kd", {"weight": 600, "resolution": 4, "normalized": True}),
        ("wrn_40_2:wrn_40_1", "cat_kd", "cat_kd", {"weight": 1.5, "resolution": 2, "normalized": False}),
        ("wrn_40_2:vgg8", "dist", "dist", {"temperature": 4, "beta": 2, "gamma": 2}),
    ],
)
def test_settings_of_methods_on_request(pair: str, method: str, group: str, fields: dict[str, float]) -> None:
    parameters = run_of("cifar100", pair, method).parameters[group]
    assert {field: parameters[field] for field in fields} == fields


@pytest.mark.parametrize("name", SUITES)
def test_every_method_can_be_asked_for(name: str) -> None:
    pairs = [suite.load(name).pairs[0].name]
    plan = make_plan(suite.load(name), methods=["all"], pairs=pairs, seeds=1)
    own = make_plan(suite.load(name), pairs=pairs, seeds=1)
    found = {run.config.method for run in plan.runs} | {one.method for one in plan.refused}
    assert found == set(distillers.names())
    assert [run.config for run in plan.runs if run.config.method in own.methods] == [run.config for run in own.runs]


@pytest.mark.parametrize("name", SUITES)
def test_forms_with_standardized_logits_have_the_recipe_of_their_base(name: str) -> None:
    """Otherwise their gain would be that of the budget."""
    forms = [method for method in distillers.names() if "ls" in distillers.groups(method)]
    assert forms
    bases = [base for form in forms if (base := distillers.registry.get(form).base)]
    plan = make_plan(suite.load(name), methods=[*forms, *bases], seeds=1)
    recipes = {(run.pair.name, run.config.method): run.config.recipe for run in plan.runs}
    for pair in plan.pairs:
        for form in forms:
            base = distillers.registry.get(form).base
            assert base is not None
            assert recipes[pair.name, form] == recipes[pair.name, base]


@pytest.mark.parametrize("name", SUITES)
def test_icd_has_the_settings_of_its_base(name: str) -> None:
    """Otherwise its gain would be that of the settings."""
    base = {method: distillers.registry.get(method).base for method in distillers.names("icd_*")}
    plan = make_plan(suite.load(name), methods=[*base, *filter(None, base.values())], seeds=1)
    found = {(run.pair.name, run.config.method): run.config for run in plan.runs}
    for pair in plan.pairs:
        for method, other in base.items():
            icd, decoupled = found[pair.name, method], found[pair.name, other or ""]
            assert {**icd.parameters, "icd": None} == {**decoupled.parameters, "icd": None}
            assert icd.recipe == decoupled.recipe


@pytest.mark.parametrize("pair", [pair.name for pair in suite.load("cifar100").pairs])
def test_gamma_of_sdd_nkd_is_beta_of_dkd(pair: str) -> None:
    assert (
        run_of("cifar100", pair, "sdd_nkd").parameters["nkd"]["gamma"]
        == (run_of("cifar100", pair, "sdd_dkd").parameters["dkd"]["beta"])
    )


@pytest.mark.parametrize("pair", [pair.name for pair in suite.load("cub").pairs])
def test_nkd_on_cub_is_sdd_nkd_without_regions(pair: str) -> None:
    nkd, decoupled = run_of("cub", pair, "nkd"), run_of("cub", pair, "sdd_nkd")
    assert nkd.parameters["nkd"] == decoupled.parameters["nkd"]
    assert nkd.recipe == decoupled.recipe


@pytest.mark.parametrize(
    ("name", "pair", "method", "epochs", "lr", "clip_norm", "drop_last"),
    [
        ("cifar100", "resnet32x4:resnet8x4", "kd", 240, 0.05, 40, False),
        ("cifar100", "resnet32x4:shufflenet_v2", "sdd_kd", 240, 0.01, 40, False),
        ("cifar100", "vgg13:mobilenet_v2", "vanilla", 240, 0.01, 40, False),
        ("cifar100", "vgg13:vgg8", "mlkd", 240, 0.025, None, False),
        ("cifar100", "resnet50:mobilenet_v2", "mlkd", 480, 0.01, None, False),
        ("cifar100", "wrn_40_2:vgg8", "sdd_mlkd", 480, 0.01, None, False),
        ("cifar100", "resnet32x4:shufflenet_v1", "sdd_mlkd", 960, 0.01, None, False),
        ("cub", "vgg13:vgg8", "kd", 240, 0.05, 40, True),
        ("cub", "vgg13:vgg8", "mlkd", 240, 0.025, None, True),
        ("cub", "resnet32x4:shufflenet_v1", "sdd_mlkd", 240, 0.01, None, True),
        ("folder", "resnet32x4:mobilenet_v2", "dkd", 240, 0.01, 40, True),
    ],
)
def test_recipes(
    name: str, pair: str, method: str, epochs: int, lr: float, clip_norm: float | None, drop_last: bool
) -> None:
    recipe = run_of(name, pair, method).recipe
    assert (recipe.epochs, recipe.lr, recipe.clip_norm, recipe.drop_last) == (epochs, lr, clip_norm, drop_last)
    assert (recipe.batch_size, recipe.weight_decay, recipe.milestones) == (64, 5e-4, (150, 180, 210))
