"""Make MLflow and the files agree again after processes of a runs folder were killed."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from benchmark import files
from benchmark.errors import UserError
from benchmark.execution.hold import held, leased_elsewhere
from benchmark.execution.options import Options
from benchmark.tracking import Tracked, Tracker, Unended
from benchmark.train import checkpoint


def reconcile(options: Options, tracker: Tracker) -> None:
    """End the runs and delete the work folders that killed processes of this runs folder left.

    Nothing is touched that a process holds, here or by a lease, and no checkpoint that a run can be resumed from.
    """
    for run in killed_runs(options, tracker):
        end_killed(options, tracker, run)
    if (identity := options.known_identity()) is not None:
        end_parents(tracker, identity)
    for folder in finished_work(options, tracker):
        delete_work(options, folder)


def killed_runs(options: Options, tracker: Tracker) -> list[Unended]:
    """Runs of this runs folder that stand as RUNNING although no process trains them."""
    identity = options.known_identity()
    unended = [] if identity is None else tracker.unended(identity)
    leased = leased_elsewhere(options) if unended else {}
    return [
        run
        for run in unended
        if run.signature and run.signature not in leased and files.is_free(options.lock_file(run.signature))
    ]


def end_killed(options: Options, tracker: Tracker, run: Unended) -> bool:
    """End a run whose process is gone, as KILLED; False when a process has taken or ended it meanwhile."""
    assert run.signature is not None
    with held(options, run.signature) as is_held:
        if not is_held or not tracker.is_running(run.run_id):
            return False
        log_saved_epochs(options, tracker, run)
        tracker.end(run.run_id, "KILLED", failure="retry", failure_reason="its process was killed")
        return True


def log_saved_epochs(options: Options, tracker: Tracker, run: Unended) -> None:
    """Log the epochs of a run's checkpoint that the store was away for when its process was killed."""
    assert run.signature is not None
    path = options.work(run.signature) / "checkpoint"
    if not path.exists():
        return
    try:
        rows = checkpoint.load(path)["history"]
    except UserError:  # damaged: whoever wants to resume the run says so
        return
    logged = tracker.epochs_logged(run.run_id)
    tracker.log_epochs(run.run_id, [row for row in rows if int(row["epoch"]) not in logged])


def end_parents(tracker: Tracker, identity: str, used: Collection[str] = ()) -> None:
    """End the parent runs of a runs folder, and those that it `used`, below which no run stands as RUNNING."""
    unended = tracker.unended()
    needed = {run.parent for run in unended}
    for run in unended:
        is_ours = run.runs_folder == identity or run.run_id in used
        if run.signature is None and run.run_id not in needed and is_ours:
            tracker.end(run.run_id, "FINISHED")


def finished_work(options: Options, tracker: Tracker) -> list[Path]:
    """Work folders of finished runs: killed between ending the run and deleting its files.

    A teacher whose weights are gone is trained again, in a newer run: its newest one decides.
    """
    folders = {path.name: path for path in sorted((options.runs / "work").glob("*")) if path.is_dir()}
    newest: dict[str, Tracked] = {}
    finished = set()
    for run in tracker.runs_with(folders):
        is_newest = newest.setdefault(run.signature, run) is run
        if run.status == "FINISHED" and (is_newest or run.tags.get("role") != "teacher"):
            finished.add(run.signature)
    return [folder for signature, folder in folders.items() if signature in finished]


def delete_work(options: Options, folder: Path) -> bool:
    """Delete the work folder of a finished run; False when a process holds the run's lock."""
    with held(options, folder.name) as is_held:
        if is_held:
            shutil.rmtree(folder, ignore_errors=True)
        return is_held
