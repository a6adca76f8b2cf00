"""Write the events of a plan's runs to MLflow: one method per event, called in order by the delivery."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

import torch

from benchmark import machine, plugins
from benchmark.analysis import curves
from benchmark.execution.reconcile import end_parents
from benchmark.execution.survey import PRUNED, Entry, Survey
from benchmark.tracking import Tracker
from benchmark.train.messages import CohortJob, LaneFailed, LaneFinished


class Record:
    """MLflow runs of a survey's entries, nested below one parent run per pair, or all below the one named `parent`.

    Every method may be called again after it failed half way: nothing is created or logged twice.
    """

    def __init__(self, survey: Survey, tracker: Tracker, parent: str | None = None) -> None:
        self.survey, self.tracker, self._parent = survey, tracker, parent
        self._experiment = ""
        #: ids of the parent runs by name
        self._parents: dict[str, str] = {}
        #: signatures of the runs that were to be created here
        self._created: set[str] = set()

    @property
    def parent_run_id(self) -> str | None:
        """Id of the run that `parent` names; None without `parent`, and before `begin`."""
        return None if self._parent is None else self._parents.get(self._parent)

    def begin(self) -> None:
        """Create the experiment, and the run that `parent` names."""
        plan, suite = self.survey.plan, self.survey.plan.suite
        rebuilds = suite.rebuilds if plan.experiment is None else []  # a plan with its own experiment rebuilds no table
        note = f"{suite.title}. Rebuilds: {', '.join(rebuilds) or 'no published table'}."
        about = {"suite": suite.name, "profile": plan.profile or "full", "mlflow.note.content": note}
        self._experiment = self.tracker.experiment(plan.experiment_name, about)
        if self._parent is not None:
            self._parent_run(self._parent, {"suite": suite.name})

    def end(self) -> None:
        """End the parent runs below which no run is left."""
        end_parents(self.tracker, self.survey.options.identity())

    def _parent_run(self, name: str, about: Mapping[str, str]) -> str:
        if name not in self._parents:
            tags = {**about, "runs_folder": self.survey.options.identity()}
            self._parents[name] = self.tracker.parent(self._experiment, name, tags)
        return self._parents[name]

    def started(self, entry: Entry, job: CohortJob) -> None:
        """Create the entry's run, or set an interrupted run to RUNNING again."""
        assert entry.signature is not None
        plan, options = self.survey.plan, self.survey.options
        config, teacher = entry.config, entry.config.teacher
        about = {"pair": entry.pair_name, "suite": plan.suite.name}
        parent = self._parent_run(self._parent or entry.pair_name, about)
        where = {
            "cohort": job.name,
            "device": machine.describe_device(torch.device(job.device)),
            "threads": str(job.threads),
            "runs_folder": options.identity(),
        }
        if entry.run_id is not None:
            moved = {"mlflow.parentRunId": parent} if self._parent else {}
            self.tracker.reopen(entry.run_id, {**where, **moved, **entry.tags})
            entry.logged = self.tracker.epochs_logged(entry.run_id)
            if job.device != "cpu":  # epochs since the checkpoint are trained again, with slightly different numbers
                entry.logged = {epoch for epoch in entry.logged if epoch <= entry.epochs_done}
            return
        tags = {**where, **about, "profile": plan.profile or "full", **entry.tags}
        if teacher is not None:
            tags |= {"teacher": teacher, "teacher_checksum": self.survey.teachers[teacher].checksum}
        if origins := config.origins().values():
            tags["plugins"] = ", ".join(sorted(set(map(str, origins))))
        entry.run_id = self.tracker.start(
            self._experiment,
            config,
            entry.signature,
            self.survey.data,
            role=entry.role,
            name=entry.label if entry.role == "teacher" else entry.title or f"{config.method} seed {config.repetition}",
            parent=parent,
            tags=tags,
            run_id=self._created_before(entry.signature),
        )

    def _created_before(self, signature: str) -> str | None:
        """Find the run that an earlier attempt created, whose answer was lost; None at the first attempt."""
        if signature not in self._created:
            self._created.add(signature)
            return None
        unended = self.tracker.unended(self.survey.options.identity())
        return next((run.run_id for run in unended if run.signature == signature), None)

    def epochs(self, entry: Entry, rows: Sequence[dict[str, float]], when_ms: int) -> None:
        """Log the metrics of epochs, each once."""
        assert entry.run_id is not None
        new = [row for row in rows if int(row["epoch"]) not in entry.logged]
        self.tracker.log_epochs(entry.run_id, new, when_ms)
        entry.logged |= {int(row["epoch"]) for row in new}

    def finished(self, entry: Entry, event: LaneFinished, figures: Mapping[str, float], when_ms: int) -> None:
        """Log the rest of the metrics, the final figures and the artifacts of a run, and end it."""
        assert entry.run_id is not None
        self.epochs(entry, event.history, when_ms)
        # killed between here and the end of the run, it comes here again
        there = self.tracker.metrics(entry.run_id)
        self.tracker.summarise(
            entry.run_id, {name: value for name, value in figures.items() if name not in there}, when_ms
        )
        self.tracker.artifacts(
            entry.run_id,
            {
                "config.json": json.dumps(entry.config.model_dump(mode="json"), indent=2).encode(),
                "per_class_accuracy.csv": per_class_table(self.survey.data.classes, event.per_class).encode(),
                "training_curves.png": curves.training_curves(event.history, entry.label),
                "student.safetensors": event.weights,
                **plugins.sources(entry.config.origins().values()),
            },
        )
        self.tracker.end(entry.run_id, "FINISHED")

    def failed(self, entry: Entry, event: LaneFailed, when_ms: int) -> None:
        """End a run as failed: finally when its loss was not finite; otherwise the next start retries it."""
        assert entry.run_id is not None
        self.epochs(entry, event.history, when_ms)
        failure = "final" if event.final else "retry"
        self.tracker.end(entry.run_id, "FAILED", failure=failure, failure_reason=event.reason)

    def dropped(self, entry: Entry, history: Sequence[dict[str, float]], reason: str, when_ms: int) -> None:
        """End a run that was dropped on request."""
        assert entry.run_id is not None
        self.epochs(entry, history, when_ms)
        self.tracker.end(entry.run_id, "KILLED", failure=PRUNED, failure_reason=reason)

    def interrupted(self, entry: Entry, reason: str) -> None:
        """End a run that the next start resumes."""
        if entry.run_id is not None:
            self.tracker.end(entry.run_id, "KILLED", failure="retry", failure_reason=reason)


def per_class_table(classes: Sequence[str], per_class: Sequence[float]) -> str:
    """Write accuracies per class as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "accuracy"])
    writer.writerows([name, f"{value:.4f}"] for name, value in zip(classes, per_class, strict=True))
    return text.getvalue()
