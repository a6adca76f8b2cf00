"""Publish the runs of a suite: write what was measured into the checkout, for everybody who has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from benchmark import files
from benchmark.analysis import measured
from benchmark.analysis.measured import MeasuredRun
from benchmark.config import RunConfig, explain
from benchmark.errors import UserError, one_line
from benchmark.tracking import BEST_ON_TEST, Tracked
from reports.base import Context

#: what a run came to; others are not over
_ENDED = ("FINISHED", "FAILED")
_MAX_TEXT = 500


@dataclass
class Published:
    """What publishing changed in a file."""

    path: Path
    added: list[MeasuredRun] = field(default_factory=list)
    #: finished runs in the place of failed ones
    replaced: list[MeasuredRun] = field(default_factory=list)
    num_known: int = 0
    warnings: list[str] = field(default_factory=list)


def publish(contexts: Sequence[Context], folder: Path | None = None) -> Published:
    """Merge the ended runs of a plan into the suite's file under `folder`, by signature: no row is lost.

    `contexts` are those of one choice of a command line, resolved for different devices. A finished run replaces a
    failed one, and never a finished one.

    Raises:
        UserError: for a plan without an ended run, and for a damaged file.
    """
    plan = contexts[0].plan
    done = Published(measured.path_of(plan.suite.name, folder))
    runs = {run.signature: run for context in contexts for run in _runs_of(context, done.warnings)}
    if not runs:
        raise UserError(
            f"--publish: no run of {plan.name} under these settings has ended under {contexts[0].runs}; this trains"
            f" them: {contexts[0].command()}"
        )
    files.check_writable(done.path.parent, "publish from a checkout of your own")
    with files.locked(done.path):
        known = {run.signature: run for run in measured.load(done.path)}
        for signature, run in runs.items():
            _merge(known.get(signature), run, done)
        known |= {run.signature: run for run in (*done.added, *done.replaced)}
        files.write(done.path, measured.to_csv(known.values()).encode())
    changed = sum(run.dirty for run in (*done.added, *done.replaced))
    if changed:
        done.warnings.append(
            f"{changed} of these runs are from a changed checkout: their commit is not what they were trained with,"
            " which the file says."
        )
    return done


def _merge(known: MeasuredRun | None, run: MeasuredRun, done: Published) -> None:
    if known is None:
        done.added.append(run)
    elif run.is_finished and not known.is_finished:
        done.replaced.append(run)
    else:
        done.num_known += 1
        figures = [(one.last, one.best_test) for one in (known, run)]
        if run.is_finished and figures[0] != figures[1]:
            same = "the same kind of machine" if known.machine == run.machine else f"another machine, {known.machine}"
            done.warnings.append(
                f"{run.label} is in the file with other figures, measured on {same}: last {known.last!r}, here"
                f" {run.last!r}; the row stays as it is."
            )


def _runs_of(context: Context, warnings: list[str]) -> Iterator[MeasuredRun]:
    """Yield the ended runs of the plan; a run whose record cannot be published is named in a warning."""
    best = {row.run_id for row in context.frame.itertuples()}
    tracked = {run.signature: run for run in context.tracked if run.run_id in best}
    for planned, signature in context.planned:
        run = tracked.get(signature or "")
        if run is None or run.status not in _ENDED:
            continue
        try:
            yield _measured(run, planned.config, context)
        except ValidationError as error:
            warnings.append(f"{planned.label} is left out: {explain(error, MeasuredRun)}.")


def _measured(run: Tracked, config: RunConfig, context: Context) -> MeasuredRun:
    figures = run.metrics if run.status == "FINISHED" else {}
    manifest = context.teachers.get(config.teacher or "")
    checksum = run.tags.get("teacher_checksum") if config.teacher else None
    about = {"device": run.tags.get("device", "unknown"), "commit": run.tags.get("git_commit", "unknown")}
    about |= {"versions": run.tags.get("versions", ""), "failure": run.tags.get("failure_reason", "")}
    about["machine"] = run.tags.get("machine", "")
    return MeasuredRun.model_validate({
        "signature": run.signature,
        "configuration": config.settings_hash,
        "dataset": run.tags.get("dataset"),
        "data_digest": run.tags.get("data_digest"),
        "teacher": config.teacher,
        "student": config.student,
        "method": config.method,
        "seed": config.repetition,
        "status": run.status.lower(),
        "last": figures.get("final/last"),
        "best_test": figures.get(BEST_ON_TEST),
        "epochs": config.recipe.epochs,
        "teacher_checksum": checksum,
        "teacher_top1": manifest.test_top1 if manifest is not None and manifest.checksum == checksum else None,
        "teacher_precision": config.teacher_precision if config.teacher else None,
        "teacher_cache": config.teacher_cache if config.teacher else None,
        "dirty": run.tags.get("git_dirty") != "false",
        "date": datetime.fromtimestamp(run.start_time // 1000, UTC).strftime(measured.DATE),
        "train_seconds": figures.get("final/train_seconds"),
        **{name: one_line(text)[:_MAX_TEXT] or None for name, text in about.items()},
    })  # fmt: skip
