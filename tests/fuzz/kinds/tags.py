"""Names and tags of experiments, parents and runs in a tracking store, and the table that is read back from it."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark import errors, process, results
from benchmark.datasets.base import Augmentation, DataSet, MemoryImages
from benchmark.tracking import Tracker
from tests.conftest import make_config
from tests.fuzz import nasty

#: an input takes tens of milliseconds
SHARE = 0.05


@cache
def store() -> tuple[tempfile.TemporaryDirectory[str], Tracker]:
    """One store for all inputs, since a new one takes a second; it is deleted at the end of the process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-store-")
    process.git_state()  # asks git, once
    return folder, Tracker(Path(folder.name))


def generate(rng: random.Random) -> dict[str, str]:
    store()
    good = rng.choice(
        ("cub", "my birds", "größe", "a.b", "(x)", "100%", "it's", 'a"b', "#1", "a?b", "a&b", "a=b", "a;b")
    )
    return {
        "suite": good if rng.random() < 0.7 else nasty.word(rng),
        "title": nasty.word(rng),
        "source": nasty.word(rng).replace("\ud800", ""),
        "reason": nasty.word(rng).replace("\ud800", "") * rng.choice((1, 100)),
    }


def check(case: dict[str, Any], folder: Path) -> None:
    name, tracker = case.get("suite", "x"), store()[1]
    if errors.name_fault(name) or errors.unprintable(title := case.get("title", "")):
        return
    images = MemoryImages(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    source = case.get("source", "")
    data = DataSet(
        f"folder[{name}]", ("a", "b"), 2, (0.5,) * 3, (0.5,) * 3, images, images, Augmentation(), "digest", source
    )
    experiment = tracker.experiment(name, {"suite": name, "mlflow.note.content": title})
    parent = tracker.parent(experiment, f"sdd_beta on {name}", {"suite": name})
    assert tracker.parent(experiment, f"sdd_beta on {name}", {"suite": name}) == parent
    run = tracker.start(
        experiment,
        make_config(),
        "0" * 16,
        data,
        role="student",
        name=title or "run",
        parent=parent,
        tags={"pair": title},
    )
    tracker.end(run, "FAILED", failure_reason=case.get("reason", ""))
    (row,) = results.frame(tracker.runs_in([experiment])).to_dict("records")
    assert row["dataset"] == data.name
    place = tracker.client.get_experiment(experiment).artifact_location
    assert place.startswith((tracker.runs / "artifacts").as_uri() + "/")
