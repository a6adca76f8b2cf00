"""Write the events of a plan's runs to MLflow: one method per event, called in order by the delivery."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from benchmark import plugins, saved_views
from benchmark.analysis import curves
from benchmark.execution import pair_means
from benchmark.execution.reconcile import end_parents
from benchmark.execution.survey import LEASED, PRUNED, Entry, Survey
from benchmark.plan.resolve import Plan
from benchmark.saved_views import VARIANT
from benchmark.tracking import BEST_ON_TEST, Tracker
from benchmark.train.messages import CohortJob, LaneFailed, LaneFinished, Started

#: MLflow's descriptions, as Markdown
_FIGURES = (
    "`final/last` is the top-1 accuracy on the test set after the last epoch, in percent: the headline."
    f" `{BEST_ON_TEST}` is that of the best epoch, chosen on the test set as the literature does."
)
_STUDIES = (
    "Studies on the suite {suite}, a run each with its trials and confirmations below. Trials train on a part of the"
    " training set and are ranked by `final/val`, accuracy on the rest, in percent: a tuning value, not a result."
    " Confirmations train on all of it, and `final/last` is their accuracy on the test set."
)
_PAIR = (
    "Students of one pair: `mean`, `std` and `n` are of `final/last` over the seeds of a method, in percent. A method"
    " followed by settings was trained with those in place of the suite's."
)


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
        is_of_studies = plan.experiment is not None
        note = _STUDIES.format(suite=suite.name) if is_of_studies else _described(plan)
        about = {"suite": suite.name, "profile": plan.profile or "full", "mlflow.note.content": note}
        own = saved_views.of_suite(tuple(suite.methods), len(suite.pairs))
        views = [saved_views.TRIALS] if is_of_studies else own
        self._experiment = self.tracker.experiment(plan.experiment_name, about, views)
        if self._parent is not None:
            self._parent_run(self._parent, {"suite": suite.name})

    def end(self) -> None:
        """Log what the methods of every pair reached, and end the parent runs below which no run is left."""
        self._update_means([entry for entry in self.survey.entries if entry.state == "finished"])
        end_parents(self.tracker, self.survey.options.identity(), self._parents.values())

    def _update_means(self, entries: Sequence[Entry]) -> None:
        if self._parent is not None:  # a study's trials differ in their settings: it has figures of its own
            return
        variants = [
            pair_means.Variant(
                entry.parent_id,
                pair_means.name_of(self.survey.plan, entry.config.method),
                entry.config,
                self.survey.data.digest,
            )
            for entry in entries
            if entry.parent_id is not None
        ]
        pair_means.update(self.tracker, self.survey.options, variants)

    def _parent_run(self, name: str, about: Mapping[str, str]) -> str:
        if name not in self._parents:
            note = {} if self._parent else {"mlflow.note.content": _PAIR}
            tags = {**about, **note, "runs_folder": self.survey.options.identity()}
            self._parents[name] = self.tracker.parent(self._experiment, name, tags)
        return self._parents[name]

    def started(self, entry: Entry, job: CohortJob, event: Started) -> None:
        """Create the entry's run, or set an interrupted run to RUNNING again."""
        assert entry.signature is not None
        plan, options = self.survey.plan, self.survey.options
        config, teacher = entry.config, entry.config.teacher
        about = {"pair": entry.pair_name, "suite": plan.suite.name}
        parent = self._parent_run(self._parent or entry.pair_name, about)
        where = {
            "cohort": job.name,
            "device": event.device,
            "machine": event.machine,
            "threads": str(job.threads),
            "runs_folder": options.identity(),
            **({} if event.host is None else {"trained_on": event.host}),
        }
        if entry.hold is not None and entry.hold.claims is not None:
            where[LEASED] = "true"
        if entry.abandoned is not None:
            reason = f"its lease ended; {options.identity()} has taken it over"
            self.tracker.end(entry.abandoned, "KILLED", failure="retry", failure_reason=reason)
            entry.abandoned = None
        if entry.run_id is not None:
            moved = {"mlflow.parentRunId": parent} if self._parent else {}
            if event.epochs_done or event.steps_done:
                where["machine"] = _joined(self.tracker.tags(entry.run_id).get("machine"), event.machine)
            self.tracker.reopen(entry.run_id, {**where, **moved, **entry.tags})
            self.tracker.complete(entry.run_id, config, self.survey.data)
            entry.logged = self.tracker.epochs_logged(entry.run_id)
            if job.device != "cpu":  # epochs since the checkpoint are trained again, with slightly different numbers
                entry.logged = {epoch for epoch in entry.logged if epoch <= event.epochs_done}
            return
        variant = pair_means.name_of(plan, config.method)
        tags = {**where, **about, VARIANT: variant, "profile": plan.profile or "full", **entry.tags}
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
            name=entry.label if entry.role == "teacher" else entry.title or f"{variant} seed {config.repetition}",
            parent=parent,
            tags=tags,
            run_id=self._created_before(entry.signature),
        )
        entry.parent_id = parent

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
        alike = (entry.pair_name, entry.config.method)
        left = [one for one in self.survey.entries if one.is_open and (one.pair_name, one.config.method) == alike]
        if entry.role == "student" and not left:
            self._update_means([entry])

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


def _described(plan: Plan) -> str:
    """Describe a suite's experiment."""
    small = f" The {plan.profile} profile, a small slice of it: not a result." if plan.profile else ""
    return f"{plan.suite.title}. Rebuilds: {', '.join(plan.suite.rebuilds) or 'no published table'}.{small} {_FIGURES}"


def _joined(before: str | None, now: str) -> str:
    """Machines that a run was trained on, in order; those of before they were recorded are unknown."""
    known = ["unknown"] if not before else before.split(" + ")
    return " + ".join(known if now == known[-1] else [*known, now])


def per_class_table(classes: Sequence[str], per_class: Sequence[float]) -> str:
    """Write accuracies per class as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "accuracy"])
    writer.writerows([name, f"{value:.4f}"] for name, value in zip(classes, per_class, strict=True))
    return text.getvalue()
