"""Make MLflow and the files agree again after processes of a runs folder were killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.execution.options import Options
from benchmark.tracking import Tracker


def reconcile(options: Options, tracker: Tracker) -> list[str]:
    """End the runs and delete the files that killed processes left; return what was done, one line each.

    Only what no process holds a lock on is touched, and only runs of this runs folder. A checkpoint that a run can be
    resumed from is kept.
    """
    return [*end_killed(options, tracker), *delete_leftovers(options, tracker)]


def end_killed(options: Options, tracker: Tracker) -> list[str]:
    """End, as KILLED, the runs that stand as RUNNING although no process trains them, then their parents."""
    identity = options.known_identity()
    if identity is None:  # nothing was trained here yet
        return []
    done = []
    for run in tracker.unended(identity):
        if run.signature is None:
            continue
        with _held(options.lock_file(run.signature)) as is_held:
            if is_held and tracker.is_running(run.run_id):  # its process may have ended it since
                tracker.end(run.run_id, "KILLED", failure="retry", failure_reason="its process was killed")
                done.append(f"run {run.run_id} stood as RUNNING although its process is gone: ended as KILLED")
    end_parents(tracker, identity)
    return done


def end_parents(tracker: Tracker, identity: str) -> None:
    """End the parent runs of a runs folder below which no run stands as RUNNING."""
    unended = tracker.unended(identity)
    needed = {run.parent for run in unended}
    for run in unended:
        if run.signature is None and run.run_id not in needed:
            tracker.end(run.run_id, "FINISHED")


def delete_leftovers(options: Options, tracker: Tracker) -> list[str]:
    """Delete the work folders of finished runs, and files that were not written to their end."""
    done = []
    folders = {path.name: path for path in sorted((options.runs / "work").glob("*")) if path.is_dir()}
    finished = {run.signature for run in tracker.runs_with(folders.keys()) if run.status == "FINISHED"}
    for signature, folder in folders.items():
        with _held(options.lock_file(signature)) as is_held:
            if not is_held:
                continue
            if signature in finished:
                shutil.rmtree(folder, ignore_errors=True)
                done.append(f"{folder} belonged to a finished run: deleted")
                continue
            for partial in folder.glob("*.partial"):
                partial.unlink(missing_ok=True)
                done.append(f"{partial} was not written to its end: deleted")
    return done


@contextmanager
def _held(lock_file: Path) -> Iterator[bool]:
    """Hold a run's lock if it is free; yield whether it is held."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
