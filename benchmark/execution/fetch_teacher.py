"""Fetch the weights of a teacher that another runs folder has trained, from the artifacts of its MLflow run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.config import RunConfig
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.tracking import BEST_ON_TEST, Tracked, Tracker
from benchmark.train import teacher_store
from benchmark.train.teacher_store import Manifest

#: artifact with the weights after the last epoch
WEIGHTS = "student.safetensors"


def fetch_teacher(
    tracker: Tracker, run: Tracked, config: RunConfig, teachers: Path, data: DataSet
) -> tuple[Path, Manifest]:
    """Store the teacher of a finished run with the facts that the run has on record; return its folder and manifest.

    The checksum follows from the weights, so students have the signatures that they have where it was trained.

    Raises:
        UserError: when the weights cannot be read from here.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            weights = load_file(tracker.artifact(run.run_id, WEIGHTS, Path(folder)))
            return teacher_store.store(
                teachers,
                data,
                config.student,
                weights,
                test_top1=run.metrics["final/last"],
                best_test_top1=run.metrics[BEST_ON_TEST],
                device=run.tags["device"],
                epochs=config.recipe.epochs,
                origin="trained",
                signature=run.signature,
                mlflow_run=run.run_id,
                git_commit=run.tags["git_commit"],
                git_dirty=run.tags["git_dirty"] == "true",
                versions=run.versions,
            )
        except (KeyError, SafetensorError) as error:
            raise UserError(f"what MLflow has of it is not whole ({error})") from error
