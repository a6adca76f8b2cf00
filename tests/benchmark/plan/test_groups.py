"""Groups of methods by name are what is registered, and what a suite has."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import distillers
from benchmark.catalogue import METHOD_GROUPS
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.groups import expand
from benchmark.plan.resolve import make_plan
from distillers.base import LogitDistiller, register
from distillers.feature_loss import FeatureLoss, feature_loss

OWN = tuple(suite.load("cifar100").methods)
GROUPS = {name: expand([name], OWN) for name in METHOD_GROUPS}


def test_every_method_is_on_logits_or_on_features() -> None:
    assert {*GROUPS["logit"], *GROUPS["feature"]} == set(GROUPS["all"]) == set(distillers.names())
    assert not {*GROUPS["logit"]} & {*GROUPS["feature"]}
    assert {"ctkd", "dist", "vanilla", "sdd_ls_dkd"} <= {*GROUPS["logit"]}, "a temperature sees no features"
    assert {"rkd", "cat_kd", "simkd", "at"} <= {*GROUPS["feature"]}


def test_later_methods_are_those_on_logits_that_the_suite_lacks() -> None:
    assert GROUPS["paper"] == OWN
    assert GROUPS["later"] == tuple(name for name in GROUPS["logit"] if name not in OWN)
    assert expand(["later"], ["kd", "at"])[:2] == ("crld", "sdd_crld")
    assert "dkd" in expand(["later"], ["kd", "at"])


@pytest.mark.parametrize("group", METHOD_GROUPS)
def test_a_base_stands_before_its_forms(group: str) -> None:
    methods = GROUPS[group]
    for method in methods:
        if (base := distillers.registry.get(method).base) in methods:
            assert methods.index(base) < methods.index(method)


def test_groups_mix_with_names_and_each_method_stands_once() -> None:
    assert expand(["paper", "dist", "at", "kd"], OWN) == (*OWN, "dist", "at")
    assert expand(["at", "all"], OWN)[0] == "at"
    assert len(expand(["at", "all", "feature"], OWN)) == len(distillers.names())


def test_a_plan_takes_groups_and_keeps_its_own_list_without_one() -> None:
    digits = suite.load("digits")
    assert make_plan(digits, seeds=1).methods == tuple(digits.methods)
    plan = make_plan(digits, methods=["vanilla", "feature"], seeds=1)
    assert plan.methods == ("vanilla", *GROUPS["feature"])
    assert len(plan.runs) == len(plan.methods)
    # the suite's own list by another name is the suite: its files have no other name
    assert make_plan(digits, methods=["paper"]).file_name == make_plan(digits).file_name == "digits"


def test_a_method_that_is_registered_joins_its_group() -> None:
    @feature_loss("nothing", title="Nothing")
    class Nothing(FeatureLoss):
        """Nothing."""

    try:
        assert "nothing" in expand(["feature"], OWN)
    finally:
        distillers.registry.remove("nothing")


@pytest.mark.parametrize("group", METHOD_GROUPS)
def test_a_method_with_the_name_of_a_group_is_not_taken_for_it(group: str) -> None:
    assert group not in distillers.registry
    register(type("Mine", (LogitDistiller,), {"name": group, "title": "Mine"}))
    try:
        with pytest.raises(UserError, match=f"'{group}' is both a method and the group of .*: rename the method"):
            make_plan(suite.load("digits"), methods=[group])
    finally:
        distillers.registry.remove(group)


def test_a_wrong_name_is_refused_before_torch_is_there() -> None:
    with pytest.raises(UserError, match=re.escape("unknown distiller 'featur'; did you mean 'feature'?")):
        make_plan(suite.load("digits"), methods=["featur"])
    code = (
        "import sys; from benchmark import command_line, run\n"
        "for methods in ('later,kd', 'latr'):\n"
        "    given = run.parser().parse_args(['digits', '--methods', methods])\n"
        "    try: command_line.check_names(given)\n"
        "    except command_line.UserError as error: print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("unknown distiller 'latr'; did you mean 'later'?")
    assert found.stdout.count("\n") == 1
