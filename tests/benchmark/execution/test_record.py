"""What a finished run leaves in MLflow."""

from __future__ import annotations

import csv
import io

from benchmark.execution import record


def test_class_names_of_any_text_are_read_back_from_the_csv() -> None:
    classes = ('5" nail', "nut, bolt", "plain", "ü", "=1+1", "a;b'")
    written = record.per_class_table(classes, [float(number) for number in range(6)])
    rows = list(csv.reader(io.StringIO(written)))
    assert rows == [["class", "accuracy"], *([name, f"{n}.0000"] for n, name in enumerate(classes))]
