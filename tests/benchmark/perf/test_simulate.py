"""The simulation of many workers, on a small plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from benchmark.execution.estimate import cohorts_of
from benchmark.perf.simulate import command, report
from benchmark.perf.simulate.costs import SPEEDUP, ModelledCosts, stand_in
from benchmark.perf.simulate.engine import Machine
from benchmark.perf.simulate.simulation import Bound, Outcome, Packing, bound_of, simulate
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan

COSTS = ModelledCosts(stand_in(), SPEEDUP["gpu"])
#: a cohort trains for minutes, and these workers live for two
IMMORTAL, MORTAL = Machine(), Machine(mean_life_s=120.0)


@cache
def plan() -> Plan:
    methods = ["vanilla", "kd", "dkd", "sdd_kd"]
    pairs = ["resnet32x4:resnet8x4", "vgg13:vgg8", "vgg13:mobilenet_v2"]
    return make_plan(suite.load("cifar100"), methods=methods, pairs=pairs, seeds=2)


def simulated(
    folder: Path, workers: int, machine: Machine = IMMORTAL, seed: int = 1, packing: Packing = cohorts_of
) -> Outcome:
    folder.mkdir(exist_ok=True)
    return simulate(plan(), COSTS.data, COSTS, workers, folder, machine, seed, packing)


def bound() -> Bound:
    return bound_of(plan(), COSTS.data, COSTS)


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_nothing_beats_the_bound_and_workers_are_busy(tmp_path: Path, workers: int) -> None:
    found = simulated(tmp_path, workers)
    assert bound().makespan_s(workers) <= found.makespan_s < 1.7 * bound().makespan_s(workers)
    assert found.tally.trained_s == pytest.approx(found.utilisation * workers * found.makespan_s)
    assert found.tally.trained_s >= 0.999 * bound().work_s
    assert 0 < found.utilisation <= 1
    assert found.num_commands == 1 and found.tally.num_deaths == 0 == found.tally.lost_s


def test_every_run_finishes_once_however_often_workers_die_and_a_seed_repeats_itself(tmp_path: Path) -> None:
    first, again, other = (simulated(tmp_path / str(number), 4, MORTAL, seed) for number, seed in enumerate((1, 1, 2)))
    runs = len(plan().runs) + len(plan().teachers)
    assert sorted(first.tally.finished.values()) == [1] * runs
    assert first.tally.num_crashed > 0 and first.num_commands > 1  # some died too often: the next command goes on
    assert first.tally.lost_s > 0
    assert first.makespan_s > simulated(tmp_path / "immortal", 4).makespan_s
    assert (first.makespan_s, first.tally) == (again.makespan_s, again.tally)
    assert first.makespan_s != other.makespan_s


def test_packings_trade_teacher_passes_for_evenness(tmp_path: Path) -> None:
    found = {name: simulated(tmp_path / name, 5, packing=packing) for name, packing in command.PACKINGS.items()}
    assert max(found["one lane"].tally.lanes) == 1
    assert found["never split"].tally.trained_s == pytest.approx(bound().work_s)
    assert found["one lane"].tally.trained_s > found["balance"].tally.trained_s >= found["never split"].tally.trained_s
    wide = simulated(tmp_path / "wide", 16), simulated(tmp_path / "whole", 16, packing=command.whole)
    assert wide[0].makespan_s < wide[1].makespan_s
    assert wide[0].tally.trained_s > wide[1].tally.trained_s
    cases: Sequence[report.Case] = list(found.items())
    rows = json.loads(report.numbers({}, bound(), cases))["cases"]
    assert [row["packing"] for row in rows] == list(command.PACKINGS)
    assert "one lane" in report.to_table(bound(), cases).to_markdown()
    assert b"<svg" in report.figure(bound(), cases)["svg"]
