"""Checks of what killed processes left behind, and of locks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark import files
from benchmark.doctor.base import Finding, Places, deleting, size_of, size_text
from benchmark.tracking import Tracked, Tracker


def locks(places: Places) -> Iterator[Finding]:
    """Locks that processes hold now, with the process where the system tells; a free lock file is harmless."""
    holders = _holders()
    held = 0
    found = sorted([*places.runs.glob("**/*.lock")]) if places.runs.exists() else []
    for lock in found:
        if not files.is_free(lock):
            held += 1
            holder = holders.get(lock.stat().st_ino)
            whose = f"process {holder}" if holder else "a process that cannot be told from here"
            yield Finding("note", f"{lock.relative_to(places.runs)} is held by {whose}")
    yield Finding("ok", f"{held} held, {len(found) - held} free")


def _holders() -> dict[int, str]:
    """Ids of the processes that hold a lock of a file on this machine, by the file's inode."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines if "->" not in line]
    return {int(one[5].rpartition(":")[2]): one[4] for one in fields if len(one) > 5 and one[4] != "-1"}


def killed_runs(places: Places) -> Iterator[Finding]:
    """Runs of this folder that MLflow shows as running although no process trains them."""
    tracker, identity = places.tracker, places.runs / "identity"
    if tracker is None or not identity.exists():
        return
    with tracker.named_errors():
        running = [run for run in tracker.running() if run.tags.get("runs_folder") == identity.read_text()]
    gone = [run for run in running if files.is_free(places.options.lock_file(run.signature))]
    for run in gone:
        name = run.tags.get("mlflow.runName", run.signature)
        yield Finding("wrong", f"{name} ({run.run_id}) is RUNNING and its process is gone", partial(_end, tracker, run))
    if not gone:
        yield Finding("ok", f"{len(running)} running, none of them left by a killed process")


def _end(tracker: Tracker, run: Tracked) -> str:
    with tracker.named_errors():
        tracker.end(run.run_id, "KILLED", failure="retry", failure_reason="its process was killed")
    return f"ended {run.run_id} as KILLED; the same command resumes it"


def work(places: Places) -> Iterator[Finding]:
    """Checkpoints of runs that are finished are of no use; those of others resume."""
    found = {path.name: path for path in sorted((places.runs / "work").glob("*")) if path.is_dir()}
    finished: set[str] = set()
    if found and (tracker := places.tracker) is not None:
        with tracker.named_errors():
            finished = {run.signature for run in tracker.runs_with(found) if run.status == "FINISHED"}
    for signature in sorted(finished):
        place = found[signature]
        text = f"work/{signature} is of a finished run, {size_text(size_of(place))}"
        yield Finding("wrong", text, deleting(places.options.lock_file(signature), place))
    others = sum(size_of(place) for name, place in found.items() if name not in finished)
    yield Finding("ok", f"{len(found) - len(finished)} runs to resume, {size_text(others)}")


def partial_files(places: Places) -> Iterator[Finding]:
    """Files that a killed process had not written to their end."""
    found = sorted({*places.runs.rglob("*.partial"), *places.options.data_root.glob("*.partial*")})
    for path in found:
        whole = path.with_name(path.name.partition(".partial")[0])
        work_of = places.options.lock_file(path.parent.name) if path.parent.parent.name == "work" else None
        yield Finding("wrong", f"{path} was not written to its end", deleting(work_of or Path(f"{whole}.lock"), path))
    if not found:
        yield Finding("ok", "none")


def logs_kept(places: Places) -> Iterator[Finding]:
    """Logs and what they take."""
    found = [*places.runs.glob("logs/*.log"), *places.runs.glob("studies/*.log")]
    yield Finding("ok", f"{len(found)} logs, {size_text(sum(map(size_of, found)))}")
