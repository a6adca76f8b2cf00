"""Progress display of training cohorts: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from benchmark.train import checkpoint
from benchmark.train.messages import (
    CohortJob,
    EpochDone,
    Event,
    LaneDropped,
    LaneFailed,
    LaneFinished,
    Started,
    StepsDone,
)

_PLAIN_SECONDS = 5.0
#: within a long epoch
_PLAIN_STEP_SECONDS = 30.0


class View(Protocol):
    """A display of the events of cohorts."""

    def __enter__(self) -> View: ...

    def __exit__(self, *exception: object) -> None: ...

    def say(self, line: str) -> None:
        """Show a permanent line."""
        ...

    def show(self, job: CohortJob, event: Event) -> None:
        """Show an event of a cohort."""
        ...

    def ended(self, job: CohortJob) -> None:
        """Stop showing a cohort, which has ended."""
        ...


def view(console: Console, total_runs: int) -> View:
    """Make live bars for a terminal, plain lines for anything else."""
    return LiveView(console, total_runs) if console.is_terminal else PlainView(console, total_runs)


class LiveView:
    """One bar per cohort that trains, and one for all runs."""

    def __init__(self, console: Console, total_runs: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[detail]}", style="cyan"),
            TimeRemainingColumn(compact=True),
            console=console,
            speed_estimate_period=120,
        )
        self._all = self._progress.add_task("all runs", total=total_runs, unit="runs", detail="")
        self._done, self._total = 0, total_runs
        self._bars: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(line)

    def show(self, job: CohortJob, event: Event) -> None:
        """Move a cohort's bar."""
        if isinstance(event, Started):
            self.ended(job)  # an engine that lost its worker starts it again
            self._steps[job.name] = event.steps_per_epoch
            self._bars[job.name] = self._progress.add_task(
                _title(job),
                total=job.epochs * event.steps_per_epoch,
                completed=event.epochs_done * event.steps_per_epoch + event.steps_done,
                unit="steps",
                detail=f"epoch {min(event.epochs_done + 1, job.epochs)}/{job.epochs}",
            )
            return
        if isinstance(event, LaneFinished | LaneFailed | LaneDropped):
            self._done += 1  # more than there were, when another process leaves one
            self._progress.update(self._all, completed=self._done, total=max(self._total, self._done))
        bar = self._bars.get(job.name)
        if bar is None:
            return
        steps = self._steps[job.name]
        if isinstance(event, StepsDone):
            self._progress.update(bar, completed=(event.epoch - 1) * steps + event.step)
        elif isinstance(event, EpochDone):
            detail = f"epoch {event.epoch}/{job.epochs}, {rate(event.images_per_s)}"
            self._progress.update(bar, completed=event.epoch * steps, detail=detail)

    def ended(self, job: CohortJob) -> None:
        """Remove a cohort's bar."""
        bar = self._bars.pop(job.name, None)
        if bar is not None:
            self._progress.remove_task(bar)


class PlainView:
    """A line per cohort every few seconds, for logs and pipes."""

    def __init__(self, console: Console, total_runs: int) -> None:
        self._console, self._total = console, total_runs
        self._done = 0
        self._last: dict[str, float] = {}
        self._begun: dict[str, tuple[float, float]] = {}
        self._steps: dict[str, int] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, soft_wrap=True)

    def show(self, job: CohortJob, event: Event) -> None:
        """Print a cohort's progress, at most every few seconds, and always after its last epoch."""
        if isinstance(event, Started):
            done = event.epochs_done + event.steps_done / event.steps_per_epoch
            self._begun[job.name] = (time.monotonic(), done)
            self._steps[job.name] = event.steps_per_epoch
            place = checkpoint.place_of(event.epochs_done, event.steps_done, event.steps_per_epoch)
            self.say(f"{_title(job)}: {f'resumes {place}' if done else 'starts'}")
        elif isinstance(event, LaneFinished | LaneFailed | LaneDropped):
            self._done += 1
            self._total = max(self._total, self._done)  # another process left one
        elif isinstance(event, StepsDone):
            now = time.monotonic()
            begun, _ = self._begun[job.name]
            if now - max(begun, self._last.get(job.name, begun)) > _PLAIN_STEP_SECONDS:
                self._last[job.name] = now
                self.say(f"{_title(job)}: epoch {event.epoch}/{job.epochs}, step {event.step}/{self._steps[job.name]}")
        elif isinstance(event, EpochDone):
            now = time.monotonic()
            if now - self._last.get(job.name, 0.0) < _PLAIN_SECONDS and event.epoch < job.epochs:
                return
            self._last[job.name] = now
            begun, first = self._begun[job.name]
            trained = event.epoch - first  # nothing, where only the epoch's evaluation was left
            left = duration((now - begun) / trained * (job.epochs - event.epoch)) if trained else "some time"
            self.say(
                f"{_title(job)}: epoch {event.epoch}/{job.epochs}, {rate(event.images_per_s)}, {left} left,"
                f" {self._done}/{self._total} runs done"
            )

    def ended(self, job: CohortJob) -> None:
        """Do nothing: there is no bar to remove."""


def _title(job: CohortJob) -> str:
    return f"{job.name} ({job.num_lanes} student{'s' if job.num_lanes > 1 else ''})"


def rate(images_per_s: float) -> str:
    """Format a speed for reading: `1,250 images/s`, `0.4 images/s`, `25 s an image`."""
    if images_per_s >= 10:
        return f"{images_per_s:,.0f} images/s"
    if images_per_s >= 0.1:
        return f"{images_per_s:.1f} images/s"
    return f"{duration(1 / images_per_s)} an image" if images_per_s > 0 else "no images yet"


def duration(seconds: float) -> str:
    """Format seconds for reading: `40 s`, `2 min 30 s`, `25 min`, `2.5 h`, `3.1 days`."""
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    if seconds < 10 * 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"
