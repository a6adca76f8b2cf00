"""The end of a command: the result in one line, and the notes that its rows need."""

from __future__ import annotations

import pandas as pd

from benchmark.analysis.comparison import RUN_COLUMNS, comparison
from benchmark.analysis.summary import notes_of_rows, result_of
from benchmark.analysis.table import Table
from tests.benchmark.analysis.test_table import plan, runs

PAIRS = ("resnet32x4:resnet8x4", "resnet32x4:shufflenet_v1")


def tabulated(values: dict[tuple[str, str], list[float]], pairs: tuple[str, ...] = PAIRS[:1], seeds: int = 3) -> Table:
    made = plan(("vanilla", "kd", "sdd_kd"), pairs=pairs, seeds=seeds)
    rows = [one for (student, method), last in values.items() for one in runs(method, last, student=student)]
    return comparison(made, pd.DataFrame(rows, columns=list(RUN_COLUMNS)), {})


def test_the_result_is_one_line() -> None:
    one = {("resnet8x4", "kd"): [70.0, 71.0, 72.0], ("resnet8x4", "sdd_kd"): [73.0, 74.5, 75.0]}
    said = (
        "highest accuracy after the last epoch:"
        " SD-KD 74.17 ± 1.04, +3.17 [+2.45, +3.88] to KD: holds here (resnet32x4:resnet8x4)"
    )
    assert result_of(tabulated(one)) == said
    two = {**one, ("shufflenet_v1", "vanilla"): [71.0, 71.0, 71.0], ("shufflenet_v1", "kd"): [70.0, 70.0, 70.1]}
    assert result_of(tabulated(two, PAIRS)) == f"{said}; student 71.00 ± 0.00 (resnet32x4:shufflenet_v1)"


def test_a_method_without_all_its_seeds_is_not_the_best() -> None:
    """A lucky seed, whose others failed; reports choose alike."""
    lasts = {("resnet8x4", "vanilla"): [70.0] * 3, ("resnet8x4", "kd"): [71.0] * 3, ("resnet8x4", "sdd_kd"): [90.0]}
    assert "KD 71.00 ± 0.00" in result_of(tabulated(lasts))
    assert result_of(tabulated({("resnet8x4", "kd"): [70.0] * 3, ("resnet8x4", "sdd_kd"): [90.0]})) == ""


def test_few_seeds_are_marked() -> None:
    one = {("resnet8x4", "kd"): [70.0], ("resnet8x4", "sdd_kd"): [73.0]}
    assert "SD-KD 73.00 †, +3.00 to KD: open" in result_of(tabulated(one, seeds=1))


def test_one_method_is_no_result() -> None:
    assert result_of(tabulated({})) == ""
    assert result_of(tabulated({("resnet8x4", "kd"): [70.0, 71.0]})) == ""


def test_the_notes_are_those_of_the_rows() -> None:
    """Seen: 45 lines after a table of two pairs, most of them on other pairs."""
    table = tabulated({}, PAIRS)
    notes = notes_of_rows(table, "runs/results/cifar100.md")
    assert len(table.notes) - len(notes) > 15
    assert any(note.startswith("sdd/table2: SDD, CIFAR-100, unlike") for note in notes)
    assert any(note.startswith("  resnet32x4:resnet8x4, SD-KD: the paper prints 76.63") for note in notes)
    text = " ".join(notes)
    assert "FitNet" not in text and "vgg13" not in text
    left = [note for note in table.notes if note not in notes and f"  {note.partition(': ')[2]}" not in notes]
    assert notes[-1] == f"{len(left)} more notes on these published tables are in runs/results/cifar100.md"
