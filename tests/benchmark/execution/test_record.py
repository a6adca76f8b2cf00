"""What a finished run leaves in MLflow."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.execution import record
from tests.conftest import make_config


def test_class_names_of_any_text_are_read_back_from_the_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ('5" nail', "nut, bolt", "plain", "ü", "=1+1", "a;b'")
    stored: dict[str, bytes] = {}
    tracker = SimpleNamespace(
        summarise=lambda *_: None, end=lambda *_: None, artifacts=lambda _, contents: stored.update(contents)
    )
    survey: Any = SimpleNamespace(data=SimpleNamespace(classes=classes))
    entry: Any = SimpleNamespace(run_id="1", config=make_config(), label="a run")
    event: Any = SimpleNamespace(per_class=[float(n) for n in range(6)], history=[], weights=b"")
    monkeypatch.setattr(record.curves, "training_curves", lambda *_: b"")
    record.Record(survey, tracker, None).finished(entry, event, {})  # type: ignore[arg-type]
    rows = list(csv.reader(io.StringIO(stored["per_class_accuracy.csv"].decode())))
    assert rows == [["class", "accuracy"], *([name, f"{n}.0000"] for n, name in enumerate(classes))]
