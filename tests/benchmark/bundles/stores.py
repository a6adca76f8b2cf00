"""A small runs folder with a run of every kind, and what a store holds, to compare two of them."""

from __future__ import annotations

import io
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmark.bundles import content, merge, pack, pieces
from benchmark.bundles.content import Bundle
from benchmark.datasets.base import DataSet
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Tracker
from tests.benchmark.execution.test_execute import SMALL, Measured, Quiet

MADE = datetime(2026, 1, 2, tzinfo=UTC)
SUITE = {**SMALL, "recipe": {"epochs": 3, "batch_size": 32}, "methods": {"kd": {}}}
#: of no machine: what a run is on record with
ELSEWHERE = {"host": "node7", "device": "NVIDIA H200", "git_commit": "f" * 40}
FAILED = "f" * 16


class Store:
    """A runs folder and the commands on it."""

    def __init__(self, folder: Path, data: DataSet) -> None:
        self.folder, self.data = folder, data
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(yaml.safe_dump(SUITE))
        self.options = Options(runs=folder / "runs", data_root=folder)
        self.tracker = Tracker(self.options.runs)

    def plan(self, seeds: int = 1) -> Plan:
        return make_plan(suite.load(str(self.folder / "small.yaml")), seeds=seeds)

    def survey(self, seeds: int = 1) -> Survey:
        found = Survey(self.plan(seeds), self.options, self.data, self.tracker)
        found.look()
        return found

    def train(self, seeds: int = 1, until: int | None = None) -> Survey:
        """Train what is open, or until an epoch of the students is over."""
        survey = self.survey(seeds)

        def stop(entry: Entry, row: Mapping[str, float]) -> bool:
            if int(row["epoch"]) == until:
                execution._interrupt()
            return False

        costs = Measured(self.data, torch.device("cpu"), 1)
        execution = Execution(survey, self.tracker, costs, Quiet(), None, stop)
        execution.run()
        return survey

    def fail(self) -> None:
        """Put a run on record whose loss was not finite."""
        config = self.plan().runs[0].config
        experiment = self.tracker.experiment("small", {})
        tags = {"runs_folder": self.options.identity(), "pair": "resnet8_half alone", "variant": "vanilla", "seed": "9"}
        parent = self.tracker.parent(experiment, "resnet8_half alone", {})
        run = self.tracker.start(
            experiment, config, FAILED, self.data, role="student", name="vanilla seed 9", parent=parent, tags=tags
        )  # fmt: skip
        self.tracker.log_epochs(run, [{"epoch": 1, "lr": 0.1, "test/top1": 10.0}])
        self.tracker.end(run, "FAILED", failure="final", failure_reason="the loss was not finite at epoch 2, step 1")
        self.tracker.end(parent, "FINISHED")

    def pack(self, name: str = "home", limit: int = 200_000, **how: Any) -> pack.Packed:
        choice = how.pop("choice", None) or pack.everything(self.options, self.tracker)
        target = self.folder / "out" / name
        return pack.pack(target, self.options, self.tracker, choice, limit=limit, created=MADE, **how)

    def merge(self, *files: Path) -> list[merge.Outcome]:
        bundles = opened(*files)
        try:
            return merge.merge(bundles, self.options, self.tracker)
        finally:
            for bundle in bundles:
                bundle.close()

    def described(self) -> dict[str, Any]:
        """All that the folder holds, but what names the folder itself."""
        client, found = self.tracker.client, {}
        experiments = {one: client.get_experiment(one) for one in self.tracker.experiments().values()}
        runs = client.search_runs(list(experiments))
        names = {run.info.run_id: run.info.run_name for run in runs}
        for run in runs:
            tags = dict(run.data.tags)
            tags.pop("runs_folder", None)
            tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId"))
            is_parent = "signature" not in tags
            key = (experiments[run.info.experiment_id].name, tags.get("signature"), run.info.run_name)
            assert key not in found, key
            with tempfile.TemporaryDirectory() as folder:
                self.tracker.download(run.info.run_id, Path(folder))
                files = {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
            found[key] = {
                "status": run.info.status, "tags": tags, "params": dict(run.data.params),
                "metrics": dict(run.data.metrics) if is_parent else self.tracker.points(run.info.run_id),
                "times": None if is_parent else (run.info.start_time, run.info.end_time),
                "inputs": [one.dataset.to_dictionary() for one in run.inputs.dataset_inputs], "artifacts": files,
            }  # fmt: skip
        return {"runs": found, "experiments": {one.name: dict(one.tags) for one in experiments.values()}}

    def everything(self) -> tuple[list[str], dict[str, bytes]]:
        """The database line by line, and every file but what is remembered of it."""
        with closing(sqlite3.connect(self.options.runs / "mlflow.db")) as connection:
            lines = list(connection.iterdump())
        remembered = ("mlflow.db", "known-runs.json")
        files = {
            str(path.relative_to(self.options.runs)): path.read_bytes()
            for path in self.options.runs.rglob("*")
            if path.is_file() and path.name not in remembered and path.suffix != ".lock"
        }
        return lines, files


def opened(*files: Path) -> list[Bundle]:
    return [content.opened(whole) for whole in pieces.gather(files)]


def fates(outcomes: list[merge.Outcome]) -> dict[tuple[str, str], list[str]]:
    """Labels by kind and fate."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in outcomes:
        found.setdefault((one.kind, one.fate), []).append(one.label)
    return found


def archive_of(*files: Path) -> bytes:
    """The archive that lies in pieces."""
    (whole,) = pieces.gather(files)
    return io.BufferedReader(whole).read()


def wrapped(archive: bytes, target: Path, limit: int = 10**9) -> list[Path]:
    """Write any bytes as the pieces of a bundle."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return pieces.split(io.BytesIO(archive), target, limit)
