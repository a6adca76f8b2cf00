"""What is shown while cohorts train."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.execution import progress
from benchmark.train.messages import CohortJob, EpochDone, Event, LaneDropped, LaneFinished, Started, StepsDone
from tests.conftest import make_config, make_job

EVENTS: list[Event] = [
    Started(0, 4, "a CPU", "AVX2"),
    StepsDone(epoch=1, step=2),
    EpochDone(1, {"a": {"epoch": 1}}, 1234.5),
    EpochDone(2, {"a": {"epoch": 2}}, 1234.5),
    LaneFinished("a", [], [], 1.0, Path()),
]


@pytest.fixture
def job(tmp_path: Path) -> CohortJob:
    return make_job(tmp_path, {"a": make_config()})


def shown(job: CohortJob, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=terminal, markup=False, highlight=False)
    with progress.view(console, 1) as view:
        for event in EVENTS:
            view.show(job, event)
        view.say("folder[birds] [bold]is no markup")
        if not terminal:  # bars would be gone from what is read back
            view.ended(job)
    return text.getvalue()


def test_plain_lines_say_cohort_epoch_speed_and_time_left(job: CohortJob) -> None:
    lines = shown(job, terminal=False).splitlines()
    assert lines[0] == "cohort (1 student): starts"
    assert lines[1].startswith("cohort (1 student): epoch 1/2, 1,234 images/s, ")
    assert lines[1].endswith(" s left, 0/1 runs done")
    assert lines[2].startswith("cohort (1 student): epoch 2/2")
    assert lines[3] == "folder[birds] [bold]is no markup"


def test_a_long_epoch_is_not_silent(job: CohortJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_STEP_SECONDS", -1.0)
    assert "cohort (1 student): epoch 1/2, step 2/4" in shown(job, terminal=False)


def test_a_terminal_gets_bars(job: CohortJob) -> None:
    text = shown(job, terminal=True)
    assert "all runs" in text
    assert "epoch 2/2, 1,234 images/s" in text
    assert "folder[birds] [bold]is no markup" in text


def test_a_dropped_run_is_done_with(job: CohortJob) -> None:
    text = io.StringIO()
    with progress.view(Console(file=text, width=120), 2) as view:
        for event in (Started(0, 4, "a CPU", "AVX2"), LaneDropped("b", []), EpochDone(2, {"a": {"epoch": 2}}, 1.0)):
            view.show(job, event)
    assert "1/2 runs done" in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "1 min 31 s"),
        (120, "2 min"),
        (158.2, "2 min 38 s"),
        (1500, "25 min"),
        (3600, "60 min"),
        (9000, "2.5 h"),
        (864000, "10.0 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


@pytest.mark.parametrize(
    ("images_per_s", "words"),
    [
        (1234.4, "1,234 images/s"),
        (9.96, "10.0 images/s"),
        (0.42, "0.4 images/s"),
        (0.04, "25 s an image"),
        (0.0, "no images yet"),
    ],
)
def test_a_slow_rate_is_not_zero(images_per_s: float, words: str) -> None:
    """Seen: `0 images/s` on a network that took two seconds an image."""
    assert progress.rate(images_per_s) == words


def test_a_cohort_that_starts_again_keeps_one_bar(job: CohortJob) -> None:
    view = progress.LiveView(Console(file=io.StringIO()), 1)
    for epochs_done in (0, 1):
        view.show(job, Started(epochs_done, 3, "a CPU", ""))
    assert len(view._progress.tasks) == 2  # of all runs, and of the cohort
