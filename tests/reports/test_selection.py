"""How far the choice of the epoch moves synthetic claims."""

from __future__ import annotations

from reports.sections.selection import selection
from tests.reports.frames import context, rows, runs, shown, tables, words


def test_gains_by_each_choice() -> None:
    kd = runs("kd", [75.0, 75.2, 75.4], metrics={"final/best_selected_on_test": 77.0, "final/best_val": 75.0})
    sdd = runs("sdd_kd", [76.0, 76.2, 76.4], metrics={"final/best_selected_on_test": 76.5, "final/best_val": 75.1})
    blocks = selection(context([*kd, *sdd]))
    (row,) = rows(tables(blocks)["selection_gains"])
    assert (row["gain_last"], row["gain_best_val"], row["gain_best_test"], row["moved"]) == (1.0, 0.1, -0.5, 1.5)
    assert row["changes_sign"] is True
    assert "1.50 at most; 1 of them changes sign" in words(blocks)


def test_few_seeds_are_marked() -> None:
    blocks = selection(context([*runs("kd", [75.0, 75.2]), *runs("sdd_kd", [76.0, 76.2])]))
    table = tables(blocks)["selection_gains"]
    assert shown(table)["SD-KD − KD"]["last"] == "+1.00 †"
    assert any(note.startswith("† fewer than 3 seeds") for note in table.notes)


def test_without_a_split_there_is_no_such_column() -> None:
    blocks = selection(context([*runs("kd", [75.0, 75.2, 75.4]), *runs("sdd_kd", [76.0, 76.2, 76.4])]))
    table = tables(blocks)["selection_gains"]
    assert [column.header for column in table.columns][1:3] == ["last", "best on test"]
    assert any("no validation split" in note for note in table.notes)
    assert shown(table)["SD-KD − KD"]["best on test"] == "+1.00"


def test_nothing_and_nan() -> None:
    nothing = float("nan")
    for given in ([], runs("kd", [75.0]), runs("kd", [nothing], metrics={"final/best_selected_on_test": nothing})):
        assert not selection(context(given))
