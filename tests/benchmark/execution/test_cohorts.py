"""Cohorts: what trains side by side."""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmark.config import RunConfig
from benchmark.execution import cohorts
from tests.conftest import make_config

Run = tuple[str, RunConfig, int]


def group(runs: list[Run]) -> list[set[str]]:
    found = cohorts.group(runs, lambda run: run[1], lambda run: run[2])
    return [{name for name, _, _ in cohort} for cohort in found]


def test_runs_of_one_teacher_and_seed_share_a_cohort_and_vanilla_joins() -> None:
    runs: list[Run] = [
        ("vanilla", make_config(), 0),
        ("kd", make_config("kd"), 0),
        ("sdd", make_config("sdd_kd"), 0),
        ("other teacher", make_config("kd", teacher="resnet20"), 0),
        ("other seed", make_config("kd", repetition=2), 0),
        ("other epochs", make_config("kd", recipe={"epochs": 3}), 0),
        ("other rounding", make_config("kd", teacher_cache="fp16"), 0),
        ("other precision", make_config("kd", teacher_precision="bf16"), 0),
    ]
    alone = [{"other teacher"}, {"other seed"}, {"other epochs"}, {"other rounding"}, {"other precision"}]
    assert group(runs) == [{"kd", "sdd", "vanilla"}, *alone]


def test_tuning_runs_share_no_cohort_with_others() -> None:
    data = make_config().data.model_copy(update={"val_fraction": 0.1})
    tuning, usual = make_config(data=data, tuning=True), make_config(data=data)
    assert group([("a", tuning, 0), ("b", usual, 0), ("c", tuning, 0)]) == [{"a", "c"}, {"b"}]


def test_lanes_are_regrouped_by_the_epochs_they_stand_at() -> None:
    runs: list[Run] = [("a", make_config("kd"), 1), ("b", make_config("sdd_kd"), 0), ("c", make_config(), 1)]
    assert group(runs) == [{"a", "c"}, {"b"}]


def test_vanilla_alone_forms_its_own_cohort() -> None:
    assert group([("a", make_config(), 0), ("b", make_config(student="resnet8"), 0)]) == [{"a", "b"}]


def cost(cohort: list[int]) -> float:
    return 2 + len(cohort)  # a teacher pass costs as much as two lanes


def makespan(groups: list[list[int]], workers: int) -> float:
    loads = [0.0] * workers
    for group in groups:
        loads[loads.index(min(loads))] += cost(group)
    return max(loads)


def test_cohorts_are_split_while_the_longest_worker_gets_shorter() -> None:
    groups = [list(range(9)) for _ in range(3)]
    for workers, longest in ((1, 33), (2, 20), (3, 11), (4, 11), (8, 7)):
        balanced = cohorts.balance(groups, workers, cost)
        assert sorted(lane for cohort in balanced for lane in cohort) == sorted(lane for g in groups for lane in g)
        assert makespan(balanced, workers) <= longest, workers
    assert cohorts.balance(groups, 1, cost) == cohorts.balance(groups, 3, cost) == groups


def plainly_balanced(groups: list[list[int]], workers: int, cost: Callable[[list[int]], float]) -> list[list[int]]:
    """`balance` as its docstring says it, sorting everything anew and looking for the least loaded worker."""
    best, pieces = None, list(groups)
    while True:
        pieces = sorted(pieces, key=lambda piece: -cost(piece))
        loads = [0.0] * workers
        for piece in pieces:
            loads[loads.index(min(loads))] += cost(piece)
        if best is None or max(loads) < 0.97 * best[0]:
            best = max(loads), pieces
        splittable = [piece for piece in pieces if len(piece) > 1]
        if len(pieces) >= len(groups) + 2 * workers or not splittable:
            return best[1]
        pieces = [piece for piece in pieces if piece is not splittable[0]]
        pieces += [splittable[0][::2], splittable[0][1::2]]


def test_balance_is_what_the_plain_way_finds_on_random_cohorts() -> None:
    rng = random.Random(0)
    for _ in range(300):
        lanes = iter(range(1000))
        groups = [[next(lanes) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 8))]
        weights = [rng.choice((1.0, 1.0, rng.random())) for _ in range(100)]  # equal costs too

        def price(cohort: list[int], weights: list[float] = weights) -> float:
            return 2 + sum(weights[lane] for lane in cohort)

        workers = rng.randint(1, 12)
        assert cohorts.balance(groups, workers, price) == plainly_balanced(groups, workers, price)


def test_single_lanes_are_not_split() -> None:
    assert cohorts.balance([[1], [2]], 4, cost) == [[1], [2]]
    assert cohorts.balance([], 2, cost) == []
