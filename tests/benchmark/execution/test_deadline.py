"""Deadlines: when a cohort is started, when everything is stopped, by a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.execution.deadline import Deadline
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EpochDone, Started, StepsDone
from tests.conftest import make_config, make_job


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job(tmp_path: Path) -> CohortJob:
    return make_job(tmp_path, {"a": make_config(), "b": make_config()})  # two lanes, two epochs


def test_a_cohort_needs_time_to_start_to_take_some_steps_and_to_be_saved(clock: Clock) -> None:
    deadline = Deadline(100.0, clock=clock)
    least = deadline.start_s + deadline.ending_s()
    clock.now = 100.0 - least - 2.1
    assert deadline.can_start()
    assert not deadline.can_start(step_s=1.0)  # three steps, and one that is not to be cut
    clock.now += 0.2
    assert not deadline.can_start()
    assert not deadline.must_stop()  # what trains goes on


def test_it_stops_in_time_for_everything_that_is_left_to_do(clock: Clock, job: CohortJob) -> None:
    deadline = Deadline(100.0, clock=clock)
    nothing = deadline.ending_s()
    deadline.submitted(job, step_s=1.0)
    assert deadline.ending_s() == pytest.approx(nothing + 2 * 0.05)  # it has nothing to save until it trains
    clock.now = 9.0
    deadline.see(job, Started(0, 4, "a CPU", "AVX2"))
    assert deadline.start_s == 9.0
    deadline.see(job, StepsDone(1, 1, stopping_s=3.0))
    training = deadline.ending_s()
    assert training == pytest.approx(nothing + 3.0 + 2 * 0.05)
    assert deadline.ending_s(num_records=10) == pytest.approx(training + 10 * 0.05)
    deadline.see(job, EpochDone(1, {}, 1.0, stopping_s=3.0))
    assert deadline.ending_s() == pytest.approx(training + 2 * 0.5)  # both lanes may finish now
    clock.now = 100.0 - deadline.ending_s() - 0.01
    assert not deadline.must_stop()
    clock.now += 0.02
    assert deadline.must_stop()
    deadline.see(job, CohortEnded())
    assert deadline.ending_s() == pytest.approx(nothing)
    assert deadline.left_s() == pytest.approx(100.0 - clock.now)


def test_a_worker_starts_no_faster_than_the_command_did(clock: Clock) -> None:
    usual, slow = Deadline(100.0, clock=clock), Deadline(100.0, 30.0, clock)
    assert (slow.start_s, usual.train_s() - slow.train_s()) == (30.0, 30.0 - usual.start_s)


def test_it_learns_what_records_and_results_take(clock: Clock, job: CohortJob) -> None:
    deadline = Deadline(100.0, clock=clock)
    nothing = deadline.ending_s()

    def slowly() -> str:
        clock.now += 4.0
        return "done"

    call = deadline.finishing(slowly)
    assert deadline.ending_s() == pytest.approx(nothing + 0.5)
    assert call() == "done"
    assert deadline.ending_s() == pytest.approx(nothing)
    again = deadline.finishing(slowly)  # the first imports what the others find there
    assert deadline.ending_s() == pytest.approx(nothing + 0.5)
    again()
    deadline.finishing(slowly)
    assert deadline.ending_s() == pytest.approx(nothing + 4.0)
    deadline.rehearse(slowly)
    assert deadline.results_s == 4.0
    deadline.submitted(job, step_s=0.1)
    deadline.see(job, CohortCrashed("out of memory", is_user_error=False))
    assert not deadline._training


def test_a_cohort_that_goes_on_after_its_worker_died_says_nothing_about_starts(clock: Clock, job: CohortJob) -> None:
    deadline = Deadline(1000.0, clock=clock)
    deadline.submitted(job, step_s=0.1)
    deadline.see(job, Started(0, 3, "a CPU", ""))
    before = deadline.start_s
    clock.now = 500.0
    deadline.see(job, Started(1, 3, "a CPU", ""))
    assert deadline.start_s == before
