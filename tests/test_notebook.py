"""The notebook of docs/, and what cites the project.

nbclient and ipykernel are not in the lock file: the notebook's cells are executed here in order, in one namespace.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
import yaml

import distillers
from benchmark.datasets.base import DataSet
from benchmark.tracking import Tracker
from benchmark.train import teacher_store
from benchmark.train.lane import create_network, weights_of
from tests.conftest import make_config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "first_look.ipynb").read_text())


def finished_store(runs: Path, digits: DataSet) -> None:
    """A store as `make bench` leaves it, in small: two runs of three methods, and their teacher."""
    tracker = Tracker(runs)
    experiment = tracker.experiment("digits", {"suite": "digits"})
    for method in ("vanilla", "kd", "sdd_kd"):
        for repetition in (1, 2):
            config = make_config(method, repetition=repetition)
            name = f"{method} {repetition}"
            run_id = tracker.start(experiment, config, name, digits, role="student", name=name, parent=None, tags={})
            top1 = {1: 20.0, 2: 50.0 + repetition}
            tracker.log_epochs(run_id, [{"epoch": epoch, "test/top1": value} for epoch, value in top1.items()])
            tracker.summarise(run_id, {"final/last": top1[2], "final/best_test": top1[2]})
            tracker.end(run_id, "FINISHED")
    weights = weights_of(create_network("resnet8x2", digits.num_classes, digits.image_size, seed=0))
    about = {"test_top1": 10.0, "device": "a CPU", "origin": "trained", "signature": "0" * 16}
    teacher_store.store(runs / "teachers", digits, "resnet8x2", weights, **about)  # type: ignore[arg-type]


def test_its_cells_run_on_a_finished_store(
    runs_folder: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_store(runs_folder, digits)
    monkeypatch.setenv("BENCH_RUNS", str(runs_folder))
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    names["plt"].close("all")
    assert names["students"].groupby("method")["last"].mean().to_dict() == {"kd": 51.5, "sdd_kd": 51.5, "vanilla": 51.5}
    assert len(names["axes"].lines) == 3
    assert names["axes"].lines[0].get_ydata().tolist() == [20.0, 51.5]
    assert len(capsys.readouterr().out.splitlines()) == 2
    made = distillers.loss("sdd_kd", scales=(1, 2, 4)).distiller.parameters()
    assert names["loss"].distiller.parameters() == made
    assert all(parameter.grad is not None for parameter in names["student"].parameters())
    assert torch.stack(list(names["terms"].values())).isfinite().all()


def test_it_shows_its_outputs_and_no_place_of_a_machine() -> None:
    assert NOTEBOOK["nbformat"] == 4
    outputs = [cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(outputs)
    kinds = {kind for shown in outputs for output in shown for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    text = json.dumps(NOTEBOOK)
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/Users/") if place in text]


def test_the_citation_is_the_projects_own() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (holder,) = citation["authors"]
    assert f"Copyright (c) 2026 {holder['name']}" in (ROOT / "LICENSE").read_text()
    (paper,) = citation["references"]
    assert [one["family-names"] for one in paper["authors"]] == ["Wei", "Luo", "Luo"]
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in (ROOT / "distillers" / "sdd.py").read_text()
