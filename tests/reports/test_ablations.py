"""Ablations found among synthetic runs, and drawn."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import pytest

from benchmark import run
from benchmark.commands import train
from benchmark.tracking import Tracked, flat
from reports.sections.ablations import PARTS, Factor, ablations, find, missing, tracked_frame
from tests.reports.frames import PAIR, check_drawn, commands, context, drawings, plan, rows, runs, tables, words

SDD: dict[str, Any] = {"sdd.beta": 2.0, "sdd.consistent": 1.0, "sdd.scales": [1, 2, 4], "kd.temperature": 4.0}


def varied(value: float, num: int = 3, **changes: Any) -> list[Tracked]:
    params = {**SDD, **{f"sdd.{key}": one for key, one in changes.items()}}
    return runs("sdd_kd", [value + 0.1 * n for n in range(num)], params=params, name=f"sdd{sorted(changes.items())}")


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
