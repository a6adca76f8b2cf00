"""What is trained first under a deadline, and how far it gets."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.config import RunConfig
from benchmark.execution import order
from benchmark.execution.estimate import Costs
from benchmark.execution.order import Work
from benchmark.execution.survey import Entry
from benchmark.plan.suite import Pair
from tests.conftest import make_config

PAIRS = [Pair(teacher="resnet8", student="resnet8_half"), Pair(teacher="resnet20", student="resnet8_half")]


def entry(method: str = "kd", teacher: str | None = "resnet8", seed: int = 1, done: int = 0, **more: Any) -> Entry:
    config = make_config(method, repetition=seed, teacher=teacher, recipe={"epochs": 6})
    made = Entry(config, "student", f"{method} {teacher} {seed}", f"{teacher} -> resnet8_half", state="new", **more)
    made.stand_at(done)
    return made


def teacher(model: str, done: int = 0) -> Entry:
    made = Entry(make_config(student=model), "teacher", f"teacher {model}", "teachers", state="new")
    made.stand_at(done)
    return made


def test_started_before_new_then_seeds_then_pairs_and_teachers_where_they_are_needed() -> None:
    students = [
        entry(seed=2), entry(seed=1), entry(teacher="resnet20", seed=1), entry(teacher="resnet20", seed=2),
        entry("vanilla", None, seed=2), entry(teacher="resnet20", seed=3, done=1),
    ]  # fmt: skip
    all_of_them = [*students, teacher("resnet20")]
    found = sorted(all_of_them, key=lambda one: order.priority_of(one, students, PAIRS))
    assert [one.label for one in found] == [
        "teacher resnet20", "kd resnet20 3", "kd resnet8 1", "kd resnet20 1",
        "kd resnet8 2", "vanilla None 2", "kd resnet20 2",
    ]  # fmt: skip
    begun = teacher("resnet20")
    begun.stand_at(0, 5, 10)
    assert order.priority_of(begun, [entry(seed=1), entry(teacher="resnet20", seed=3)], PAIRS)[0] is False
    assert order.priority_of(teacher("resnet8"), [entry(seed=3)], PAIRS) < order.priority_of(entry(seed=3), [], PAIRS)


def test_the_forecast_keeps_to_order_workers_and_teachers() -> None:
    works = [
        Work((teacher("resnet8"),), 10.0, makes="resnet8"),
        Work((entry(),), 20.0, needs="resnet8"),
        Work((entry("vanilla", None),), 4.0),
        Work((entry(seed=2),), 20.0, needs="resnet8"),
    ]
    # one worker: 10, then 20 seconds, then what does not need the teacher, whose place is third
    assert order.forecast(works, 1, 25.0) == [1.0, 0.75, 0.0, 0.0]
    # two: the second takes what is ready
    assert order.forecast(works, 2, 25.0) == [1.0, 0.75, 1.0, 0.75]
    assert order.forecast(works, 2, 100.0) == [1.0] * 4
    assert order.forecast(works, 2, -1.0) == [0.0] * 4
    lines = order.outlook(works, [1.0, 0.75, 1.0, 0.0])
    assert lines == [
        "teacher resnet8: finished",
        "resnet8 -> resnet8_half, seed 1: to about epoch 5 of 6",
        "None -> resnet8_half, seed 1: finished",
        "resnet8 -> resnet8_half, seed 2: in the next sitting",
    ]


def test_lines_count_runs_that_fare_alike() -> None:
    described = [(entry(), "finished"), (entry("dkd"), "finished"), (entry("nkd"), "after epoch 2")]
    assert order.grouped(described) == ["resnet8 -> resnet8_half, seed 1: 2 finished, 1 after epoch 2"]


class Known(Costs):
    """Costs as if measured: 100 s a cohort, and 1 s of evaluation per epoch."""

    def __init__(self) -> None:
        return

    def cohort_s(self, configs: Any, epochs_done: float = 0) -> float:
        return 100.0

    def evaluations_s(self, configs: Any) -> float:
        return 1.0


def test_measured_epochs_of_other_seeds_are_better_than_measured_steps() -> None:
    """Two runs of one time were in one cohort, whose time it is; of two cohorts the times add up."""
    together = [entry("kd", epoch_s=3.0), entry("dkd", epoch_s=3.0), entry("nkd", epoch_s=2.0)]
    known = order.known_epochs(together)
    again = [entry("kd", seed=2), entry("dkd", seed=2)]
    assert order.seconds_of(again, Known(), known) == 6 * (3.0 + 1.0)
    assert order.seconds_of([*again, entry("nkd", seed=2)], Known(), known) == 6 * (5.0 + 1.0)
    half_way = [entry("kd", done=3)]
    assert order.seconds_of(half_way, Known(), known) == 3 * (3.0 + 1.0)
    assert order.seconds_of([*again, entry("mlkd")], Known(), known) == 100.0
    other: RunConfig = entry("kd").config.model_copy(update={"base_seed": 1})
    assert order.seconds_of([Entry(other, "student", "", "")], Known(), known) == 100.0


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "finished"), (0.4, "to about epoch 3 of 6"), (0.0, "in the next sitting")],
)
def test_outcomes_in_words(share: float, words: str) -> None:
    assert order.outcome_of(entry(), share) == words


def test_what_is_begun_and_not_reached_goes_on_later() -> None:
    assert order.outcome_of(entry(done=2), 0.0) == "resumes in the next sitting"
