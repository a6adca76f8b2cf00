"""Hand-made frames in, expected cells and expected text out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pandas as pd
import pytest
from rich.console import Console

from benchmark.analysis.comparison import RUN_COLUMNS, comparison
from benchmark.analysis.table import Cell, Column, Row, Section, Table
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan

PAIR = "resnet32x4:shufflenet_v2"


def plan(methods: Sequence[str] = ("kd", "vanilla", "sdd_kd"), *, pairs: Sequence[str] = (PAIR,), seeds: int = 3,
         profile: str | None = None) -> Plan:  # fmt: skip
    return make_plan(suite.load("cifar100"), methods=methods, pairs=pairs, seeds=seeds, profile=profile)


def runs(method: str, last: Sequence[float], *, student: str = "shufflenet_v2", status: str = "FINISHED",
         first: int = 1) -> list[dict[str, object]]:  # fmt: skip
    """One run per value; the best on test is always 0.5 above the last."""
    return [
        {
            "signature": f"{method}-{student}-{repetition}",
            "run_id": f"{method}{repetition}",
            "status": status,
            "teacher": None if method == "vanilla" else "resnet32x4",
            "student": student,
            "method": method,
            "repetition": repetition,
            "epochs": 240,
            "last": value,
            "best_test": value + 0.5,
            "best_val": float("nan"),
        }
        for repetition, value in enumerate(last, start=first)
    ]


def cells(table: Table, section: int = 0) -> dict[str, dict[str, str]]:
    """Shown texts by method title and header."""
    headers = [column.header for column in table.columns]
    return {
        row.cells[0].text: dict(zip(headers, (cell.text for cell in row.cells), strict=True))
        for row in table.sections[section].rows
    }


def line(table: Table, method: str) -> dict[str, str]:
    """A line of the CSV form."""
    return next(row for row in csv.DictReader(io.StringIO(table.to_csv())) if row["method"] == method)


FULL = pd.DataFrame(
    [*runs("vanilla", [71.0, 72.0, 73.0]), *runs("kd", [74.0, 75.0, 76.0]), *runs("sdd_kd", [75.0, 76.0, 78.0])]
)


def test_complete() -> None:
    table = comparison(plan(), FULL, {"resnet32x4": 79.1})
    assert table.title == "CIFAR-100"
    assert table.sections[0].title == PAIR
    assert table.sections[0].subtitle == "teacher 79.10 (published 79.42)"
    shown = cells(table)
    assert list(shown) == ["Student", "KD", "SD-KD"], "the student alone comes first"
    assert shown["Student"] == {
        "Method": "Student",
        "last": "72.00 ± 1.00",
        "best (selected on test)": "72.50 ± 1.00",
        "gain in last [95%]": "—",
        "outcome": "—",
        "published": "71.82",
        "ours − published": "+0.68",
        "seeds": "3/3",
    }
    # differences 3, 3, 3, which have no spread, and 1, 1, 2: see test_stats.py
    assert shown["KD"]["gain in last [95%]"] == "+3.00"
    assert shown["KD"]["outcome"] == "open"
    assert shown["SD-KD"]["gain in last [95%]"] == "+1.33 [−0.10, +2.77]"
    assert shown["SD-KD"]["outcome"] == "open (≈ 4 seeds)"
    assert shown["SD-KD"]["ours − published"] == "+0.16"
    assert not any("†" in note or "‡" in note for note in table.notes)
    assert any(note.startswith("sdd/table2: SDD, CIFAR-100") and "arXiv 2403.13512" in note for note in table.notes)


def test_cells_name_their_runs() -> None:
    row = comparison(plan(), FULL, {}).sections[0].rows[1]
    assert row.cells[1].run_ids == ("kd1", "kd2", "kd3")
    assert row.cells[3].run_ids == ("kd1", "kd2", "kd3", "vanilla1", "vanilla2", "vanilla3")


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame(columns=list(RUN_COLUMNS))])
def test_nothing_run_yet(frame: pd.DataFrame) -> None:
    table = comparison(plan(), frame, {})
    assert table.sections[0].subtitle == "teacher — (published 79.42)"
    assert list(cells(table)["SD-KD"].values()) == ["SD-KD", "—", "—", "—", "—", "76.67", "—", "0/3"]
    assert line(table, "sdd_kd")["last_mean"] == ""


def test_partial_and_failed() -> None:
    frame = pd.DataFrame(
        [
            *runs("vanilla", [71.0, 72.0, 73.0]),
            *runs("kd", [74.0, 75.0]),
            *runs("kd", [float("nan")], first=3, status="FAILED"),
            *runs("sdd_kd", [75.0], first=2),
            *runs("sdd_kd", [10.0], first=1, status="RUNNING"),
        ]
    )
    table = comparison(plan(), frame, {})
    shown = cells(table)
    assert shown["KD"]["seeds"] == "2/3, 1 failed"
    assert shown["KD"]["last"] == "74.50 ± 0.71 †"
    assert shown["KD"]["gain in last [95%]"] == "+3.00 †"
    assert shown["SD-KD"]["seeds"] == "1/3"
    assert shown["SD-KD"]["last"] == "75.00 †", "one value has no spread, and an unfinished run no value"
    assert shown["SD-KD"]["gain in last [95%]"] == "+0.00 †", "over the seed that both have"
    assert any("†" in note for note in table.notes)
    assert [line(table, "kd")[name] for name in ("num_planned", "num_finished", "num_failed")] == ["3", "2", "1"]
    assert not any(cell.bold for row in table.sections[0].rows for cell in row.cells), "one method has all its seeds"


def test_a_finished_run_counts_over_an_earlier_failure() -> None:
    frame = pd.DataFrame([*runs("kd", [float("nan")], status="FAILED"), *runs("kd", [74.0, 75.0, 76.0])])
    assert cells(comparison(plan(), frame, {}))["KD"]["seeds"] == "3/3"


@pytest.mark.parametrize(("seeds", "text"), [(1, "74.00 †"), (2, "74.50 ± 0.71 †")])
def test_few_seeds_are_marked(seeds: int, text: str) -> None:
    few = FULL[FULL["repetition"] <= seeds]
    table = comparison(plan(seeds=seeds), few, {})
    shown = cells(table)["KD"]
    assert (shown["last"], shown["gain in last [95%]"], shown["outcome"]) == (text, "+3.00 †", "open")
    assert shown["seeds"] == f"{seeds}/{seeds}"
    assert any(note.startswith("† fewer than 3 seeds") for note in table.notes)


def test_smoke_is_no_result() -> None:
    table = comparison(plan(seeds=1, profile="smoke"), FULL[FULL["repetition"] == 1], {})
    assert "smoke profile: a small slice, not a result" in table.title
    assert table.notes[0].startswith("smoke profile: a small slice, not a result")
    assert "ours − published" not in cells(table)["KD"]
    assert cells(table)["KD"]["published"] == "74.45"
    assert line(table, "kd")["minus_published"] == ""
    assert not any(cell.bold for row in table.sections[0].rows for cell in row.cells)
    assert all(len(row.cells) == len(table.columns) for row in table.sections[0].rows)


def test_part_of_a_data_set_is_not_comparable() -> None:
    table = comparison(plan(), FULL.assign(is_part=True), {}, dataset_name="cifar100[10 classes]")
    assert "cifar100[10 classes]" in table.title + table.subtitle
    # SDD's table has CRD's row of KD, which is of the last epoch: our last beside it
    assert cells(table)["KD"]["ours − published (not comparable)"] == "+0.55"
    assert line(table, "kd")["minus_published"] == ""
    assert table.notes[0] == (
        "Run on cifar100[10 classes], a part of the data set: not comparable with published values."
    )


def test_own_images_are_whole_and_choosing_them_changes_nothing() -> None:
    own = make_plan(suite.load("folder"), assignments=["data.path=birds"])
    frame = pd.DataFrame([{**row, "is_part": False} for row in runs("kd", [74.0, 75.0, 76.0])])
    table = comparison(own, frame, {}, dataset_name="folder[birds]")
    assert not [note for note in table.notes if "part of the data set" in note or "Changed" in note]
    assert comparison(own, frame.assign(is_part=True), {}, dataset_name="folder[birds]").notes[0].startswith("Run on")


def test_unequal_budget_is_marked() -> None:
    table = comparison(plan(["vanilla", "kd", "sdd_kd", "mlkd"]), FULL, {})
    shown = cells(table)
    assert shown["MLKD (960 × 2) ‡"]["published"] == "78.44 ?"
    assert "KD" in shown
    assert any(note.startswith("‡ unequal budget") and "240 × 1" in note for note in table.notes)
    assert any(note.startswith("? published value of unsure confidence") for note in table.notes)


def test_base_that_is_not_planned_gives_no_gain() -> None:
    table = comparison(plan(["sdd_kd"]), FULL, {})
    assert list(cells(table)) == ["SD-KD"]
    assert cells(table)["SD-KD"]["gain in last [95%]"] == "—"


def test_pairs_of_one_student_share_its_runs_alone_but_no_others() -> None:
    table = comparison(plan(pairs=["resnet32x4:shufflenet_v2", "wrn_40_2:shufflenet_v2"]), FULL, {"wrn_40_2": 75.0})
    assert cells(table, 1)["Student"]["last"] == "72.00 ± 1.00"
    assert cells(table, 1)["KD"]["seeds"] == "0/3"
    assert table.sections[1].subtitle == "teacher 75.00", "no table has this pair"


def test_without_published_values_their_columns_are_left_out() -> None:
    table = comparison(make_plan(suite.load("digits")), pd.DataFrame(), {})
    assert [column.header for column in table.columns][-2:] == ["outcome", "seeds"]


def test_best_last_is_bold_among_complete_methods() -> None:
    """Only where its lead over every other method excludes 0: else the winner may change with the next seed."""
    rest = FULL[FULL["method"] != "sdd_kd"]
    apart = pd.concat([FULL[FULL["method"] == "vanilla"], pd.DataFrame(runs("kd", [74.0, 75.1, 76.0]))])
    for frame, best in (
        (FULL, []),  # leads 1, 1, 2: an interval that includes 0
        (pd.concat([rest, pd.DataFrame(runs("sdd_kd", [80.0, 81.1, 82.3]))]), ["sdd_kd"]),
        (pd.concat([apart, pd.DataFrame(runs("sdd_kd", [90.0]))]), ["kd"]),
    ):
        table = comparison(plan(), frame, {})
        assert [row.fields["method"] for row in table.sections[0].rows if row.cells[1].bold] == best


def test_csv_is_tidy() -> None:
    table = comparison(plan(), FULL, {"resnet32x4": 79.1})
    row = line(table, "sdd_kd")
    assert {name: row[name] for name in row if name != "run_ids"} == {
        "suite": "cifar100", "profile": "", "data": "cifar100", "pair": PAIR, "teacher": "resnet32x4",
        "student": "shufflenet_v2", "teacher_accuracy": "79.1", "teacher_published": "79.42", "method": "sdd_kd",
        "base": "kd", "epochs": "240", "num_views": "1",
        "num_parameters_trained_beside": "0", "num_parameters_tested_beside": "0",
        "num_planned": "3", "num_finished": "3", "num_failed": "0",
        "last_mean": "76.3333", "last_std": "1.5275", "best_test_mean": "76.8333", "best_test_std": "1.5275",
        "best_val_mean": "", "best_val_std": "", "gain": "1.3333", "gain_low": "-0.1009", "gain_high": "2.7676",
        "gain_confidence": "0.95", "gain_outcome": "open", "gain_num_seeds": "3", "gain_correlation": "0.982",
        "gain_detectable": "1.8845", "gain_decided_by_seeds": "4", "published": "76.67",
        "published_confidence": "read", "published_table": "sdd/table2", "published_epoch": "best",
        "minus_published": "0.1633",
    }  # fmt: skip
    assert row["run_ids"] == "sdd_kd1 sdd_kd2 sdd_kd3"


SMALL = Table(
    title="A_B",
    subtitle="50% of it",
    columns=(Column("Method", "left"), Column("gain [95%]")),
    sections=(
        Section("a:b_1", "teacher 79.10", (Row((Cell("KD"), Cell("—")), {"method": "kd", "gain": None}),)),
        Section(
            "c|d", "", (Row((Cell("x|y ‡"), Cell("+1.00 [−0.10, +2.10]", bold=True)), {"method": "x,y", "gain": 1.0}),)
        ),
    ),
    notes=("± & co", "†: few"),
)


def test_markdown() -> None:
    assert (
        SMALL.to_markdown()
        == r"""## A_B

50% of it

### a:b_1

teacher 79.10

| Method | gain [95%] |
| :--- | ---: |
| KD | — |

### c|d

| Method | gain [95%] |
| :--- | ---: |
| x\|y ‡ | **+1.00 [−0.10, +2.10]** |

- ± & co
- †: few
"""
    )


def test_csv() -> None:
    assert SMALL.to_csv() == 'method,gain\nkd,\n"x,y",1.0\n'


def test_rich_takes_text_as_it_is() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(SMALL.to_rich())
    text = console.export_text()
    for expected in ("A_B", "a:b_1", "gain [95%]", "+1.00 [−0.10, +2.10]", "x|y ‡", "†: few"):
        assert expected in text


def full(frame: pd.DataFrame, made: Plan) -> Table:
    return comparison(made, frame, {"resnet32x4": 79.42})


@pytest.mark.parametrize(("width", "left_out"), [(140, ()), (80, ("ours − published",))])
def test_a_method_stays_on_one_line_of_the_terminal(width: int, left_out: tuple[str, ...]) -> None:
    """Seen at 80 columns: three lines a method, and `72.5` over `0`."""
    made = plan(("kd", "vanilla", "sdd_kd", "mlkd"))
    rows = [one for method in made.methods for one in runs(method, [75.12, 70.5, 79.91])]
    table = full(pd.DataFrame(rows, columns=list(RUN_COLUMNS)), made)
    shown, missing = table.fitted(width, ("ours − published", "published", "best"))
    assert missing == left_out
    console = Console(width=width, file=io.StringIO())
    console.print(shown.to_rich())
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    sdd = next(line for line in lines if line.startswith("SD-KD "))
    assert "75.18 ± 4.71" in sdd and sdd.endswith("3/3")
    assert sum(line.endswith("3/3") for line in lines) == 4


def test_what_a_narrow_terminal_leaves_out_is_said() -> None:
    columns = (Column("method", "left"), *(Column(f"a column of {number}") for number in range(9)))
    row = Row.of("kd", *(f"{number}.00 ± 0.00" for number in range(9)))
    console = Console(width=60, file=io.StringIO(), highlight=False)
    Table.of_rows("t", "", columns, [row]).show(console, "results/t.md", ("a column of 1",))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "kd      0.00 ± 0.00  2.00 ± 0.00  3.00 ± 0.00" in said
    assert "of 8: see results/t.md" in " ".join(said.split()) and "columns are too few for a column of 1, a" in said


def test_a_line_end_does_not_break_a_row() -> None:
    """Found by fuzzing: a carriage return ended the row of a CSV, and a line end that of a Markdown table."""
    label = "two\nlines\rand | more"
    table = Table.of_rows("t", "", (Column("label"),), [Row.of(label, label=label, value=1)])
    assert list(csv.DictReader(io.StringIO(table.to_csv()))) == [{"label": "two lines and | more", "value": "1"}]
    assert table.to_markdown().splitlines()[-1] == r"| two lines and \| more |"
