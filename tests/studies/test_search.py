"""A study's trials: each point once, whoever works, dies or comes back."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.trial import BaseTrial, TrialState

from benchmark.errors import UserError
from studies.base import Choice, Study
from studies.chance import Chance
from studies.search import METRIC, SILENT_SECONDS, Reference, Search, frame, is_retried, slug
from studies.tables import leaderboard, remarks
from tests.processes import exit_code, heard, pipe, start


class Grid(Study):
    """Nine points, two at a time."""

    name, question, published, at_once = "grid", "Which?", "none", 2

    def suggest(self, trial: BaseTrial) -> Choice:
        return Choice("sdd_kd", {"sdd.beta": trial.suggest_categorical("sdd.beta", tuple(range(9)))})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return [{"sdd.beta": number} for number in range(9)]

    def baselines(self) -> Sequence[Choice]:
        return [Choice("kd", {})]

    def draw(self, frame: pd.DataFrame, title: str, lines: object) -> Figure:
        return Figure()


class Drawn(Grid):
    """Twelve points of a curve by TPE, three at a time."""

    name, sampler, trials, at_once = "drawn", "tpe", 12, 3

    def suggest(self, trial: BaseTrial) -> Choice:
        return Choice("sdd_kd", {"sdd.beta": trial.suggest_float("sdd.beta", 0, 10)})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return ()


def test_optuna_knows_what_a_value_is(tmp_path: Path) -> None:
    search = opened(tmp_path)
    assert search.study.metric_names == [METRIC]
    search.study._storage.set_study_system_attr(search.study._study_id, "study:metric_names", None)  # of before
    search.close()
    assert opened(tmp_path).study.metric_names == [METRIC]


def test_trials_at_chance_level_have_no_winner(tmp_path: Path) -> None:
    search = opened(tmp_path)
    while batch := search.ask():
        for trial, _ in batch:
            search.tell(trial, 12.0 - trial.number)
    assert search.winner() == Choice("sdd_kd", {"sdd.beta": 0})  # on how many images is not known yet
    search.remember(Chance(num_classes=10, num_images=100))
    assert search.chance is not None
    assert (search.chance.percent, round(search.chance.level(), 2)) == (10.0, 16.98)
    assert search.is_at_chance
    assert search.winner() is None
    assert any(
        line.startswith("No winner: no trial is above chance (10.00%, on 100 images the best of 9")
        for line in remarks(search)
    )
    assert not any(cell.bold for row in leaderboard(search).sections[0].rows for cell in row.cells)
    search.remember(Chance(num_classes=10, num_images=10_000))
    assert not search.is_at_chance
    assert search.winner() == Choice("sdd_kd", {"sdd.beta": 0})
    search.remember(Reference("kd", "KD", 11.5, None, 1))
    search.close()
    assert opened(tmp_path).reference == Reference("kd", "KD", 11.5, None, 1)


def test_the_best_of_many_guesses_is_above_chance_once_in_a_hundred_times() -> None:
    chance = Chance(num_classes=10, num_images=1000)
    guessed = np.random.default_rng(0).binomial(1000, 0.1, size=(4000, 40)).max(axis=1) / 10
    for level, low, high in ((chance.level(40), 0.003, 0.03), (chance.level(), 0.25, 0.4)):
        assert low < np.mean(guessed > level) < high


def opened(folder: Path, study: Study | None = None, **options: Any) -> Search:
    return Search(study or Grid(), "which", {"pair": "a:b"}, folder, **options)


def answer(search: Search, batches: int = 100) -> None:
    """Tell the value -(beta - 3)^2."""
    for _ in range(batches):
        asked = search.ask()
        if not asked:
            return
        for trial, choice in asked:
            search.tell(trial, -((choice.settings["sdd.beta"] - 3) ** 2))


def points(search: Search, state: TrialState = TrialState.COMPLETE) -> Counter[float]:
    return Counter(trial.params["sdd.beta"] for trial in search.trials() if trial.state == state)


def test_a_grid_is_asked_for_in_batches_and_once(tmp_path: Path) -> None:
    search = opened(tmp_path)
    assert len(search.ask()) == 2
    answer(search)
    assert len(search.ask()) == 0
    search.close()
    again = opened(tmp_path)  # the two that the first worker never told are re-queued
    answer(again)
    assert points(again) == Counter(range(9))
    best = again.best()
    assert best is not None
    assert best.params == {"sdd.beta": 3}
    retried = [trial.number for trial in again.trials() if is_retried(trial)]
    assert retried == [0, 1]
    assert len(frame(again.trials())) == 9


def work(folder: Path, storage: str | None, hangs: bool, channel: Connection) -> None:
    """Be a worker: open the study, wait, and tell trials until none is left, or hang with some in hand."""
    search = opened(folder, storage=storage)
    channel.send("ready")
    channel.recv()
    if hangs:
        search.ask()
        channel.send("asked")
        time.sleep(600)
    while asked := search.ask():
        for trial, choice in asked:
            time.sleep(0.02)
            search.tell(trial, float(choice.settings["sdd.beta"]))


def three_workers(folder: Path, storage: str | None = None) -> None:
    """Let three processes work at a grid, and kill one with its trials in hand before the others begin."""
    channels = [pipe() for _ in range(3)]
    hanging, *others = [
        start(work, folder, storage, number == 0, theirs) for number, (_, theirs) in enumerate(channels)
    ]
    ours, *theirs = [channel for channel, _ in channels]
    assert [heard(channel) for channel in (ours, *theirs)] == ["ready"] * 3
    ours.send("go")
    assert heard(ours) == "asked"
    hanging.kill()
    assert exit_code(hanging) == -signal.SIGKILL
    for channel in theirs:
        channel.send("go")
    assert [exit_code(worker) for worker in others] == [0, 0]


@pytest.mark.processes
def test_a_grid_is_trained_once_by_three_workers_one_of_which_is_killed(tmp_path: Path) -> None:
    opened(tmp_path).close()
    three_workers(tmp_path)
    search = opened(tmp_path)
    assert search.ask() == []
    assert points(search) == Counter(range(9))
    failed = points(search, TrialState.FAIL)
    assert sum(failed.values()) == 2
    instead = [trial.user_attrs["instead_of"] for trial in search.trials() if "instead_of" in trial.user_attrs]
    assert len(instead) == len(set(instead)) == 2


def test_locks_of_killed_workers_are_deleted_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "worker-0123456789ab.lock"
    left.touch()
    first = opened(tmp_path)
    second = opened(tmp_path)
    assert {path.name for path in tmp_path.glob("worker-*.lock")} == {
        f"worker-{one.worker.name}.lock" for one in (first, second)
    }
    second.close()
    first.close()
    assert not list(tmp_path.glob("worker-*.lock"))


def test_tpe_is_a_function_of_its_history(tmp_path: Path) -> None:
    """Whether the process was started once or for every batch."""
    once = opened(tmp_path / "once", Drawn())
    answer(once)
    for _ in range(4):
        often = opened(tmp_path / "often", Drawn())
        answer(often, batches=1)
        often.close()
    values = [trial.params["sdd.beta"] for trial in once.trials()]
    assert len(values) == 12
    assert values == [trial.params["sdd.beta"] for trial in opened(tmp_path / "often", Drawn()).trials()]
    assert len(set(values)) == 12


def test_the_number_of_drawn_trials_can_be_raised(tmp_path: Path) -> None:
    search = opened(tmp_path, Drawn(), num_trials=4)
    answer(search)
    assert len(search.trials()) == 4
    search.close()
    more = opened(tmp_path, Drawn(), num_trials=5)
    answer(more)
    assert len(more.trials()) == 5


def test_what_a_worker_stops_in_the_middle_of_is_re_queued(tmp_path: Path) -> None:
    search = opened(tmp_path)
    (first, _), (second, _) = search.ask()
    search.tell(first, -9.0)
    search.retry([first, second])
    assert [trial.state.name for trial in search.trials()[:2]] == ["COMPLETE", "FAIL"]
    answer(search)
    assert points(search) == Counter(range(9))


def test_a_kill_between_two_writes_loses_no_point_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # while the points are enqueued: none of them is
        patch.setattr("optuna.Study.enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    search = opened(tmp_path)
    assert search.num_left() == 9
    with monkeypatch.context() as patch:  # after a trial is asked for, before it has its parameters
        patch.setattr(Grid, "suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            search.ask()
    search.close()
    second = opened(tmp_path)
    asked = second.ask()
    with monkeypatch.context() as patch:  # after a trial was given up, before its point is re-queued
        patch.setattr("optuna.Study.enqueue_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            second.retry([trial for trial, _ in asked])
    second.close()
    third = opened(tmp_path)
    asked = third.ask()
    with monkeypatch.context() as patch:  # after a trial was marked as given up, before it is failed
        patch.setattr("optuna.Study.tell", killed)
        with pytest.raises(KeyboardInterrupt):
            third.retry([trial for trial, _ in asked])
    third.close()
    last = opened(tmp_path)
    answer(last)
    assert points(last) == Counter(range(9))
    assert last.num_left() == 0


class Numbers(Grid):
    """Whole numbers that come back as fractions."""

    def suggest(self, trial: BaseTrial) -> Choice:
        return Choice("sdd_kd", {"sdd.beta": trial.suggest_float("sdd.beta", 0, 8)})


def test_a_point_is_the_same_whatever_the_type_of_its_number(tmp_path: Path) -> None:
    search = opened(tmp_path, Numbers())
    answer(search)
    search.close()
    again = opened(tmp_path, Numbers())
    assert again.ask() == []
    assert points(again) == Counter(map(float, range(9)))


def test_a_worker_that_was_taken_for_dead_goes_on(tmp_path: Path) -> None:
    """Its trials are another's by then: what it has to say about them is not heard, and is no error."""
    silent, other = opened(tmp_path), opened(tmp_path)
    (first, _), (second, _) = silent.ask()
    other.retry([first, second])
    assert not silent.is_running(first)
    assert not silent.report(first, 1.0, 1)
    silent.heartbeat([first, second])
    silent.tell(first, 1.0)
    silent.prune(second)
    answer(other)
    assert points(other) == Counter(range(9))


def test_workers_with_folders_of_their_own_live_by_their_heartbeats(tmp_path: Path) -> None:
    """One machine, one storage, two runs folders: the lock of the other lies where it is not looked for."""
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    here, there = (opened(tmp_path / name, storage=storage) for name in ("here", "there"))
    (first, _), _ = here.ask()
    (running, *_) = there._running()
    assert running.number == first.number
    assert [there.worker.is_gone(running, there._now() + later) for later in (0, SILENT_SECONDS + 60)] == [False, True]


def test_a_failed_trial_is_told_and_not_repeated(tmp_path: Path) -> None:
    search = opened(tmp_path)
    (first, _), (second, _) = search.ask()
    search.tell(first, None, reason="the loss was not finite")
    search.tell(second, 1.0)
    answer(search)
    assert sum(points(search).values()) == 8
    assert (search.num_left(), search.num_failed) == (0, 1)
    rows = frame(search.trials()).set_index("number")
    assert rows.loc[first.number, "state"] == "fail"
    assert rows.loc[first.number, "reason"] == "the loss was not finite"


def test_another_definition_is_refused_until_fresh(tmp_path: Path) -> None:
    search = opened(tmp_path)
    answer(search, batches=1)
    search.close()
    with pytest.raises(UserError, match=r"holds 'which' with another at_once, sampler, space, study: give --fresh"):
        opened(tmp_path, Drawn())
    with pytest.raises(UserError, match="with another pair"):
        Search(Grid(), "which", {"pair": "c:d"}, tmp_path)
    assert opened(tmp_path, Drawn(), fresh=True).trials() == []


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "onnection refused"),
        ("nodatabase://x", "nodatabase"),
        ("sqlite:////proc/none/here.db", "unable to open"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(tmp_path: Path, storage: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(storage)} cannot be used: .*{reason}"):
        opened(tmp_path, storage=storage)


def test_mlflows_database_is_refused(tmp_path: Path, runs_folder: Path) -> None:
    storage = f"sqlite:///{runs_folder / 'mlflow.db'}"
    with pytest.raises(UserError, match=rf"--storage {storage} is MLflow's database, and Optuna cannot share it"):
        opened(tmp_path, storage=storage)


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "which.journal").write_text("{not json\n{}\n")
    with pytest.raises(UserError, match=r"which\.journal cannot be used"):
        opened(tmp_path)


@pytest.mark.processes
@pytest.mark.postgresql
def test_a_grid_is_trained_once_on_postgresql(tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    three_workers(tmp_path, postgresql)
    search = opened(tmp_path, storage=postgresql)
    assert search.ask() == []
    assert points(search) == Counter(range(9))
    assert sum(points(search, TrialState.FAIL).values()) == 2
    assert time.monotonic() - started < 600  # a heartbeat would be waited for longer
    # workers of other machines live by the server's clock
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    trial = search.study.ask({})
    trial.set_user_attr("worker", "a")
    trial.set_user_attr("host", "elsewhere")
    search.heartbeat([trial])
    (running,) = search._running()
    assert abs(running.user_attrs["heartbeat"] - now) < 60
    assert [search.worker.is_gone(running, search._now() + later) for later in (0, SILENT_SECONDS + 60)] == [
        False,
        True,
    ]


def test_long_titles_make_short_file_names_that_differ() -> None:
    """Found by fuzzing: a long title that is no UTF-8 had no file name."""
    assert slug("sdd_beta on cub smoke a to b") == "sdd_beta-on-cub-smoke-a-to-b"
    long, other = slug("x" * 500 + "\udcff"), slug("x" * 500)
    assert long != other
    assert max(len(long), len(other)) < 170
