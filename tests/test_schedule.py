"""Cohorts: what trains side by side."""

from __future__ import annotations

from benchmark import schedule
from benchmark.config import RunConfig
from tests.conftest import make_config

Run = tuple[str, RunConfig, int]


def group(runs: list[Run]) -> list[set[str]]:
    found = schedule.cohorts(runs, lambda run: run[1], lambda run: run[2])
    return [{name for name, _, _ in cohort} for cohort in found]


def test_runs_of_one_teacher_and_seed_share_a_cohort_and_vanilla_joins() -> None:
    runs: list[Run] = [
        ("vanilla", make_config(), 0),
        ("kd", make_config("kd"), 0),
        ("sdd", make_config("sdd_kd"), 0),
        ("other teacher", make_config("kd", teacher="resnet20"), 0),
        ("other seed", make_config("kd", repetition=2), 0),
        ("other epochs", make_config("kd", recipe={"epochs": 3}), 0),
    ]
    assert group(runs) == [{"kd", "sdd", "vanilla"}, {"other teacher"}, {"other seed"}, {"other epochs"}]


def test_lanes_are_regrouped_by_the_epochs_they_stand_at() -> None:
    runs: list[Run] = [("a", make_config("kd"), 1), ("b", make_config("sdd_kd"), 0), ("c", make_config(), 1)]
    assert group(runs) == [{"a", "c"}, {"b"}]


def test_vanilla_alone_forms_its_own_cohort() -> None:
    assert group([("a", make_config(), 0), ("b", make_config(student="resnet8"), 0)]) == [{"a", "b"}]


def test_cohorts_are_split_only_while_the_longest_worker_gets_shorter() -> None:
    def cost(cohort: list[int]) -> float:
        return 2 + len(cohort)  # a teacher pass costs as much as two lanes

    groups = [list(range(10)) for _ in range(3)]
    balanced = schedule.balance(groups, 2, cost)
    assert sorted(lane for cohort in balanced for lane in cohort) == sorted(lane for g in groups for lane in g)
    assert len(balanced) == 4
    assert schedule.balance(groups, 3, cost) == groups
    assert schedule.balance([[1], [2]], 2, cost) == [[1], [2]]
    assert schedule.balance([], 2, cost) == []
