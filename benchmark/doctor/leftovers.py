"""Checks of what killed processes left behind, and of locks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark import files
from benchmark.doctor.base import Finding, Places, deleting, size_of, size_text
from benchmark.errors import UserError
from benchmark.execution import reconcile
from benchmark.execution.options import Options
from benchmark.tracking import Tracker, Unended


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
    if (tracker := places.tracker) is None:
        return
    with tracker.named_errors():
        gone = reconcile.killed_runs(places.options, tracker)
    for run in gone:
        yield Finding(
            "wrong", f"run {run.run_id} is RUNNING and its process is gone", partial(_end, places.options, tracker, run)
        )
    if not gone:
        yield Finding("ok", "none")


def _end(options: Options, tracker: Tracker, run: Unended) -> str:
    with tracker.named_errors():
        if not reconcile.end_killed(options, tracker, run):
            raise UserError(f"{run.run_id} stays: a process has taken it up")
    return f"ended {run.run_id} as KILLED; the same command resumes it"


def work(places: Places) -> Iterator[Finding]:
    """Checkpoints of runs that are finished are of no use; those of others resume."""
    finished: list[Path] = []
    if (tracker := places.tracker) is not None:
        with tracker.named_errors():
            finished = reconcile.finished_work(places.options, tracker)
    for folder in finished:
        text = f"{folder.relative_to(places.runs)} is of a finished run, {size_text(size_of(folder))}"
        yield Finding("wrong", text, deleting(places.options.lock_file(folder.name), folder))
    others = [path for path in (places.runs / "work").glob("*") if path not in finished]
    yield Finding("ok", f"{len(others)} runs to resume, {size_text(sum(map(size_of, others)))}")


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
