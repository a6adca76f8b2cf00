"""How far the choice of the epoch moves synthetic claims."""

from __future__ import annotations

from reports.sections.selection import selection
from tests.reports.frames import context, rows, runs, shown, tables, words


def test_gains_by_each_choice() -> None:
    kd = runs("kd", [75.0, 75.2, 75.4], metrics={"final/best_test": 77.0, "final/best_val": 75.0})
    sdd = runs("sdd_kd", [76.0, 76.2, 76.4], metrics={"final/best_test": 76.5, "final/best_val": 75.1})
    blocks = selection(context([*kd, *sdd]))
    (row,) = rows(tables(blocks)["selection_gains"])
    assert (row["gain_last"], row["gain_best_val"], row["gain_best_test"], row["moved"]) == (1.0, 0.1, -0.5, 1.5)
    assert row["changes_sign"] is True
    found = {row["method"]: row for row in rows(tables(blocks)["selection"])}
    assert (found["kd"]["last_mean"], found["kd"]["best_test_mean"]) == (75.2, 77.0)
    assert found["kd"]["best_test_minus_last"] == 1.8
    assert "1.50 at most; 1 of them changes sign" in words(blocks)


def test_without_a_split_best_val_is_a_dash() -> None:
    blocks = selection(context([*runs("kd", [75.0, 75.2, 75.4]), *runs("sdd_kd", [76.0, 76.2, 76.4])]))
    table = tables(blocks)["selection"]
    assert shown(table)["KD"]["best on validation"] == "—"
    assert any("no split was left" in note for note in table.notes)
    assert shown(tables(blocks)["selection_gains"])["SD-KD − KD"]["best on test"] == "+1.00"


def test_one_run_has_no_spread() -> None:
    blocks = selection(context(runs("kd", [75.0])))
    assert shown(tables(blocks)["selection"])["KD"]["last"] == "75.00 †"
    assert "selection_gains" not in tables(blocks)


def test_nothing_and_nan() -> None:
    for made in (context(), context(runs("kd", [float("nan")], metrics={"final/best_test": float("nan")}))):
        blocks = selection(made)
        assert not tables(blocks)
        assert "python -m benchmark.run cifar100" in words(blocks)
