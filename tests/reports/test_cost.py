"""Times of synthetic runs."""

from __future__ import annotations

from reports.sections.cost import cost
from tests.reports.frames import context, plan, rows, runs, shown, tables

TIMES = {"time/step_ms": 20.0}
BATCH = {"recipe.batch_size": 64}


def test_times_are_those_of_the_runs() -> None:
    tracked = [*runs("kd", [75.0] * 3, metrics=TIMES, params=BATCH), *runs("sdd_kd", [76.0] * 3, params=BATCH)]
    blocks = cost(context(tracked))
    found = {row["method"]: row for row in rows(tables(blocks)["cost"])}
    assert found["kd"] == {
        "pair": "resnet32x4:shufflenet_v1", "device": "a CPU", "method": "kd", "step_ms": 20.0,
        "images_per_second": 3200.0, "hours_per_run": 2.0, "hours_in_total": 6.0, "num_runs": 3,
    }  # fmt: skip
    assert found["sdd_kd"]["step_ms"] is None
    assert "All finished runs of the plan: 12.00 hours of training." in tables(blocks)["cost"].notes


def test_the_paper_is_beside() -> None:
    printed = shown(tables(cost(context(runs("kd", [75.0]))))["cost_published"])
    assert {method: row["step (ms)"] for method, row in printed.items()} == {
        "CRD": "41", "ReviewKD": "26", "KD": "11", "SD-KD": "11",
    }  # fmt: skip


def test_a_student_alone_is_paid_for_once() -> None:
    pairs = ("resnet32x4:shufflenet_v1", "wrn_40_2:shufflenet_v1")
    made = plan(methods=("vanilla",), pairs=pairs)
    table = tables(cost(context(runs("vanilla", [70.0]), made)))["cost"]
    assert len(rows(table)) == 2
    assert any("plan: 2.00 hours" in note for note in table.notes)
    assert any("fewer than 3 runs" in note for note in table.notes)


def test_nothing_and_nan() -> None:
    nothing = {"time/step_ms": float("nan"), "final/train_seconds": float("nan")}
    for made in (context(), context(runs("kd", [75.0], metrics=nothing)), context(runs("kd", [75.0], status="FAILED"))):
        assert not cost(made)
