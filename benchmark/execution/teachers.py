"""Weights of teachers that were trained: stored where students find them, or fetched from another runs folder's run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark import machine
from benchmark.config import RunConfig
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution.survey import Entry, Survey
from benchmark.tracking import BEST_ON_TEST, Tracked, Tracker
from benchmark.train import teacher_store
from benchmark.train.messages import LaneFinished
from benchmark.train.teacher_store import Manifest

#: artifact with the weights after the last epoch
WEIGHTS = "student.safetensors"
#: stores a teacher as `teacher_store.store` does
Store = Callable[..., tuple[Path, Manifest]]


def store(survey: Survey, entry: Entry, event: LaneFinished, mlflow_run: str | None, store_as: Store) -> str:
    """Store a teacher that has finished, and let the survey use it; return what it reached, in words."""
    folder, manifest = store_as(
        survey.options.teachers,
        survey.data,
        entry.config.student,
        load_file(event.weights),
        test_top1=entry.figures["final/last"],
        best_test_top1=entry.figures[BEST_ON_TEST],
        device=machine.describe_device(torch.device(survey.options.device)),
        epochs=entry.config.recipe.epochs,
        origin="trained",
        signature=entry.signature,
        mlflow_run=mlflow_run,
    )
    survey.use_teacher(entry.config.student, folder, manifest)
    if any(run.config.tuning for run in survey.plan.runs):  # nothing of the test set is looked at
        return f"{event.history[-1].get('val/top1', math.nan):.2f}% on the validation split"
    return f"{manifest.test_top1:.2f}% on the test set"


def fetch(tracker: Tracker, run: Tracked, config: RunConfig, survey: Survey) -> tuple[Path, Manifest] | UserError:
    """Fetch a teacher from its run; return its folder and manifest, or why its weights cannot be had from here.

    Raises:
        UserError: when the tracking store is away.
    """
    try:
        return _store_artifacts(tracker, run, config, survey.options.teachers, survey.data)
    except UserError as error:
        if tracker.is_away(error.__cause__):
            raise
        return error


def _store_artifacts(
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
