"""The order of methods in the comparison."""

from __future__ import annotations

import pytest

from reports.sections import comparison
from tests.reports import frames
from tests.reports.test_report import small


def test_every_method_is_listed_after_its_base_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms of forms too: `sdd_ls_kd` gains over `ls_kd`, which gains over `kd`; a base may be missing."""
    bases = {"vanilla": None, "sdd_kd": "kd", "ls_kd": "kd", "sdd_ls_kd": "ls_kd", "sdd_dkd": "dkd"}
    monkeypatch.setattr(comparison, "base_of", lambda method: bases.get(method, "vanilla"))

    class Planned:
        methods = ("sdd_ls_kd", "sdd_dkd", "kd", "vanilla", "nkd", "sdd_kd", "ls_kd")

    ordered = comparison.in_order(Planned())  # type: ignore[arg-type]
    assert ordered == ["vanilla", "sdd_dkd", "kd", "sdd_kd", "ls_kd", "sdd_ls_kd", "nkd"]


def test_the_planned_methods_of_a_suite_are_all_there() -> None:
    plan = small()
    assert sorted(comparison.in_order(plan)) == sorted(plan.methods)


def test_the_highest_mean_is_bold_only_by_the_rule_where_no_gain_is_known_too() -> None:
    plan = frames.plan(methods=("kd", "dkd"))
    for dkd, bold in (([75.0, 75.5, 74.9], False), ([80.0, 80.3, 80.1], True)):
        made = frames.context([*frames.runs("kd", [74.0, 75.6, 74.2]), *frames.runs("dkd", dkd)], plan)
        row = comparison.overview(made, plan.pairs).sections[0].rows[-1]
        assert row.fields["method"] == "dkd"
        assert row.cells[1].bold is bold
