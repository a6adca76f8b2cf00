"""Ablations found among synthetic runs, and drawn."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from benchmark import run
from benchmark.commands import train
from benchmark.config import numerics_of
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.tracking import Tracked, flat
from reports.sections.ablations import PARTS, Factor, ablations, find, missing, tracked_frame
from tests.reports.frames import PAIR, check_drawn, commands, context, drawings, plan, rows, runs, tables, words

SDD: dict[str, Any] = {"sdd.beta": 2.0, "sdd.consistent": 1.0, "sdd.scales": [1, 2, 4], "kd.temperature": 4.0}


def varied(value: float, num: int = 3, pair: str = PAIR, **changes: Any) -> list[Tracked]:
    params = {**SDD, **{f"sdd.{key}": one for key, one in changes.items()}}
    lasts = [value + 0.1 * n for n in range(num)]
    return runs("sdd_kd", lasts, pair=pair, params=params, name=f"sdd{pair}{sorted(changes.items())}")


def everything(num: int = 3) -> list[Tracked]:
    return [
        *varied(76.0, num),
        *(one for beta in (1.0, 4.0, 6.0, 8.0) for one in varied(75.0 + beta / 10, num, beta=beta)),
        *(one for scales in ([1, 2], [1, 4]) for one in varied(75.5, num, scales=scales)),
        *varied(75.2, num, beta=0.0),
        *varied(75.3, num, beta=1.0, consistent=0.0),
        *runs("kd", [74.0, 74.1, 74.2][:num], params={"kd.temperature": 4.0}),
    ]


def levels(tracked: list[Tracked]) -> dict[str, dict[Any, list[float]]]:
    found = find(plan(), tracked_frame(tracked))
    return {one.factor: {level: of.values for level, of in one.levels.items()} for one in found}


def test_every_part_is_found() -> None:
    found = levels(everything())
    assert list(found["beta"]) == [1.0, 2.0, 4.0, 6.0, 8.0]
    assert found["beta"][8.0] == pytest.approx([75.8, 75.9, 76.0])
    assert list(found["scales"]) == [(1,), (1, 2), (1, 4), (1, 2, 4)]
    assert list(found["terms"]) == ["none", "consistent", "complementary", "both"]
    # KD is scale decoupling at {1}, and without its terms
    assert found["scales"][(1,)] == found["terms"]["none"] == pytest.approx([74.0, 74.1, 74.2])


def test_what_differs_in_more_is_another_ablation() -> None:
    colder = runs("sdd_kd", [70.0], params={**SDD, "kd.temperature": 1.0, "sdd.beta": 4.0}, name="colder")
    assert levels([*varied(76.0), *colder]) == {}
    other_kd = runs("kd", [74.0], params={"kd.temperature": 1.0})
    assert "none" not in levels([*varied(76.0), *varied(75.2, beta=0.0), *other_kd])["terms"]
    shorter = runs("sdd_kd", [70.0], params={**SDD, "sdd.beta": 4.0, "recipe.epochs": 1}, name="shorter")
    part = runs("sdd_kd", [70.0], params={**SDD, "sdd.beta": 4.0, "data.num_train": 64}, name="part")
    tuning = runs("sdd_kd", [70.0], params={**SDD, "sdd.beta": 4.0, "tuning": True}, name="tuning")
    assert levels([*varied(76.0), *shorter, *part, *tuning]) == {}


def test_tables_have_the_frames_values_and_the_papers() -> None:
    blocks = ablations(context(others=everything()))
    beta = {row["level"]: row for row in rows(tables(blocks)["ablation_beta"])}
    assert beta["2"]["mean"] == 76.1
    assert beta["2"]["std"] == 0.1
    assert {level: row["published"] for level, row in beta.items()} == {
        "1": 75.62, "2": 76.3, "4": 75.99, "6": 76.15, "8": 75.78,
    }  # fmt: skip
    scales = {row["level"]: row["published"] for row in rows(tables(blocks)["ablation_scales"])}
    assert scales == {"{1}": 74.07, "{1, 2}": 75.1, "{1, 4}": 75.84, "{1, 2, 4}": 76.3}
    assert not words(blocks)


def test_points_of_other_images_stand_beside_nothing() -> None:
    """Pairs of Tables 6 to 8 are also pairs of the suite cub, and a small profile has other images too."""
    of_cub = make_plan(suite.load("cub"), pairs=[PAIR], methods=["kd", "sdd_kd"])
    for made, dataset in ((of_cub, "cub200"), (plan(profile="smoke"), "cifar100[500 images]")):
        small = {"data.num_train": made.data.num_train, "data.num_test": made.data.num_test}
        tracked = [replace(run, params={**run.params, **{key: str(value) for key, value in small.items()}})
                   for run in everything()]  # fmt: skip
        blocks = ablations(replace(context(made=made, others=tracked), dataset=dataset))
        assert len(tables(blocks)) == 3
        assert {row["published"] for table in tables(blocks).values() for row in rows(table)} == {None}


def test_runs_of_another_version_of_the_method_are_not_mixed_in() -> None:
    now = numerics_of("sdd_kd")
    same = [replace(run, tags={**run.tags, "numerics": now}) for run in varied(75.0, beta=4.0)]
    older = [replace(run, tags={**run.tags, "numerics": f"{now}0"}) for run in varied(70.0, beta=8.0)]
    assert list(levels([*varied(76.0), *same, *older])["beta"]) == [2.0, 4.0]
    foreign = [replace(run, tags={**run.tags, "method": "sdd_mine"}) for run in varied(70.0, beta=8.0)]
    assert list(levels([*varied(76.0), *same, *foreign])["beta"]) == [2.0, 4.0]


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_figures(num: int) -> None:
    found = drawings(ablations(context(others=everything(num))))
    assert len(found) == (3 if num else 0)
    for figure in found.values():
        check_drawn(figure)
        ours, theirs = figure.axes
        # spread from three seeds only
        assert bool(ours.collections) == (num == 3)
        assert theirs.lines


@pytest.mark.parametrize("factor", PARTS)
def test_the_commands_that_fill_a_gap_are_taken(factor: Factor) -> None:
    """As a person would copy them into a shell: what each changes makes a level of the part."""
    levels = set()
    for command in missing(factor, context()):
        given = run.parser().parse_args(shlex.split(command)[3:])
        for planned in train.plan_of(given, "cpu").runs:
            params = {
                f"param.{name}": str(value) for name, value in flat(planned.config.model_dump(mode="json")).items()
            }
            if planned.config.method == "sdd_kd":
                levels.add(PARTS[factor].level(pd.Series(params)))
    assert None not in levels
    assert len(levels) == len(PARTS[factor].settings)


def test_nothing_few_and_nan() -> None:
    blocks = ablations(context())
    assert not tables(blocks)
    assert "--set sdd.beta=4" in commands(blocks)
    nan = varied(float("nan"), beta=4.0)
    assert not tables(ablations(context(others=[*varied(76.0), *nan])))
    few = tables(ablations(context(others=[*varied(76.0, 1), *varied(75.0, 1, beta=4.0)])))["ablation_beta"]
    assert all("†" in row.cells[1].text for row in few.sections[0].rows)
    assert PAIR.replace(":", " → ") in few.sections[0].title
