"""Leases: won once, renewed while their process lives, taken over when they have expired; machines that share them."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from sqlalchemy import Delete, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from benchmark import files, tracking
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution import claims, execute, hold, reconcile, record
from benchmark.execution.claims import Claims, parsed, url_of
from benchmark.execution.options import Options
from benchmark.tracking import Tracker
from benchmark.train import checkpoint, pace
from tests.benchmark.execution.test_execute import SMALL, Folder, states
from tests.processes import exit_code, heard, pipe, start

LEASE = 1.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.processes])])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database that holds nothing yet, or is not there."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'absent' / 'claims.db'}"
    return str(request.getfixturevalue("postgresql"))


def expire(database: str, signature: str) -> None:
    """Let a lease expire: nobody renewed it for a day."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(
            text("update run_claims set expires = expires - 86400, renewed = renewed - 86400 where signature = :one"),
            {"one": signature},
        )
    engine.dispose()


def renew_at_once(monkeypatch: pytest.MonkeyPatch, asked: list[float]) -> None:
    """Let leases be renewed all the time, and note the seconds that would have passed between."""

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        time.sleep(0.01)

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=sleep))


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def win_what_is_left(database: str, channel: Connection) -> None:
    channel.send("ready")
    channel.recv()
    mine = Claims(parsed(database))
    channel.send([name for name in map(str, range(40)) if mine.claim(name, f"process {os.getpid()}")])
    channel.recv()


@pytest.mark.processes
def test_four_processes_that_open_an_absent_database_at_once_win_each_run_once(database: str) -> None:
    channels = [pipe() for _ in range(4)]
    workers = [start(win_what_is_left, database, theirs) for _, theirs in channels]
    ours = [one for one, _ in channels]
    assert [heard(channel) for channel in ours] == ["ready"] * 4
    for channel in ours:
        channel.send("go")
    won = Counter(name for channel in ours for name in heard(channel))
    assert won == Counter(map(str, range(40)))
    for channel in ours:
        channel.send("end")
    assert [exit_code(worker) for worker in workers] == [0] * 4


def test_a_lease_is_taken_over_once_it_has_expired_by_the_databases_clock(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (Claims(parsed(database)) for _ in range(3))
    assert second.others() == {}
    assert first.claim("a", "one") and first.claim("a", "one"), "its own lease is claimed again when an answer was lost"
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clocks of machines do not count
    assert not second.claim("a", "two")
    assert second.others() == {"a": "one"} and first.others() == {}
    expire(database, "a")
    first.renew()  # it comes late, but before anybody else
    assert not second.claim("a", "two") and not first.lost
    expire(database, "a")
    assert third.others() == {}
    assert [one.claim("a", name) for one, name in ((second, "two"), (third, "three"))] == [True, False]
    first.renew()
    assert first.lost == {"a"} and third.others() == {"a": "two"}
    first.release("a")  # of another by now
    assert third.others() == {"a": "two"} and not first.lost
    second.release("a")
    assert third.claim("a", "three")


def test_leases_are_renewed_while_their_process_lives(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    renew_at_once(monkeypatch, asked)
    first, second = (Claims(parsed(database)) for _ in range(2))
    assert first.claim("a", "one")
    expire(database, "a")
    eventually(lambda: second.others() == {"a": "one"})
    assert not second.claim("a", "two")
    assert set(asked) == {claims.LEASE_SECONDS / 3}
    monkeypatch.setattr(Claims, "renew", lambda self: None)
    with first._guard:  # the renewal that runs now is the last
        expire(database, "a")
    assert second.claim("a", "two")


def test_renewals_are_tried_again_while_the_database_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    renew_at_once(monkeypatch, asked)
    url = parsed(f"sqlite:///{tmp_path / 'claims.db'}")
    first, second = Claims(url), Claims(url)
    renewed, is_away = Claims.renew, threading.Event()

    def renew(self: Claims) -> None:
        if is_away.is_set():
            raise UserError("gone")
        renewed(self)

    monkeypatch.setattr(Claims, "renew", renew)
    is_away.set()
    assert first.claim("a", "one")
    expire(str(url), "a")
    eventually(lambda: first.trouble == "gone" and claims.LEASE_SECONDS / 12 in asked)
    assert second.others() == {}
    is_away.clear()
    eventually(lambda: first.trouble is None and second.others() == {"a": "one"})


def test_a_lease_that_could_not_be_released_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = parsed(f"sqlite:///{tmp_path / 'claims.db'}")
    first, second = Claims(url), Claims(url)
    assert all(first.claim(name, "one") for name in "abc")
    attempts = []

    def away(signature: str) -> Delete:
        attempts.append(signature)
        raise SQLAlchemyError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(first, "_give_up", away)
        first.release("a")
        first.release("b")
    assert attempts == ["a"], "a database that is known to be away is not asked again for every run"
    assert second.others().keys() == {*"abc"}
    first.renew()
    assert second.others().keys() == {"c"}


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    away = Claims(parsed("postgresql://nobody:secret@127.0.0.1:1/none"))
    with pytest.raises(UserError, match=r"the leases in .*nobody:\*\*\*@127\.0\.0\.1:1/none failed: .*refused"):
        away.claim("a", "one")
    (tmp_path / "claims.db").write_text("no database")
    with pytest.raises(UserError, match="not a database"):
        Claims(parsed(f"sqlite:///{tmp_path / 'claims.db'}")).others()


@pytest.mark.parametrize("given", ["mysql://here/it", "sqlite://", "nonsense"])
def test_a_database_that_machines_do_not_share_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"--claims .*use postgresql://"):
        parsed(given)


def test_leases_lie_beside_a_tracking_store_that_is_a_database_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(runs=tmp_path / "runs", data_root=tmp_path)

    def where(tracked: str | None, given: str | None = None) -> str | None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked or "")
        url = url_of(replace(options, claims=given))
        return None if url is None else url.render_as_string(hide_password=False)

    assert where(None) is None and where(tracking.local_uri(options.runs)) is None
    assert where("http://server:5000") is None
    assert where("sqlite:////shared/mlflow.db") == "sqlite:////shared/claims.db"
    assert where("http://server:5000", "postgresql://there/name") == "postgresql+psycopg://there/name"
    assert where("sqlite:////shared/mlflow.db", "none") is None


# -- two runs folders stand for two machines ---------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracking store in a folder of its own, which several machines use."""
    folder = tmp_path / "shared"
    runs_folder.rename(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setattr(execute, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(claims, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(record.curves, "training_curves", lambda *given: b"")  # drawing takes longer than training
    return folder


def machine(folder: Path, data: DataSet, database: str | None = None) -> Folder:
    folder.mkdir(exist_ok=True)
    made = Folder(folder, data)
    made.options = replace(made.options, engine="inline", claims=database)
    return made


def finished(tracker: Tracker, data: DataSet) -> Counter[str]:
    return Counter(run.signature for run in tracker.runs_on(data.digest) if run.status == "FINISHED")


def train_and_say(folder: Path, data: DataSet, database: str | None, channel: Connection) -> None:
    """Be a machine that says every epoch that it has trained, and does not go on until it is told to."""
    saved = checkpoint.save

    def save(path: Path, state: dict[str, object]) -> None:
        saved(path, state)
        channel.send(path.parent.name)
        channel.recv()

    checkpoint.save = save  # type: ignore[assignment]
    machine(folder, data, database).train(machine(folder, data, database).survey())


@pytest.mark.processes
@pytest.mark.postgresql
def test_a_machine_that_is_killed_loses_its_lease_and_the_run_is_finished_once(
    postgresql: str, shared: Path, tmp_path: Path, digits: DataSet
) -> None:
    database = postgresql
    ours, theirs = pipe()
    killed = start(train_and_say, tmp_path / "one", digits, database, theirs)
    training = heard(ours)
    other = machine(tmp_path / "two", digits, database)
    survey = other.survey()
    teacher = survey.teacher_entries["resnet8"]
    assert (teacher.signature, teacher.state) == (training, "elsewhere")
    identity = (tmp_path / "one" / "runs" / "identity").read_text()
    assert teacher.reason == f"{identity}, process {killed.pid}"
    threading.Timer(1.5 * LEASE, killed.kill).start()  # renewed until then
    began = time.monotonic()
    said = other.train(survey)
    assert time.monotonic() - began > 1.5 * LEASE
    assert exit_code(killed) == -signal.SIGKILL
    assert said[0] == f"teacher resnet8: {identity}, process {killed.pid} is training it; waiting for it"
    assert states(survey) == ["finished"]
    assert set(finished(other.tracker, digits).values()) == {1}
    runs = {run.run_id: run for run in other.tracker.runs_on(digits.digest)}
    left = [run for run in runs.values() if run.status != "FINISHED"]
    assert [(run.signature, run.status, run.tags["failure"]) for run in left] == [(training, "KILLED", "retry")]
    assert other.tracker.unended() == []
    # the one that was killed comes back: everything is there, and its teacher is fetched
    again = machine(tmp_path / "one", digits, database)
    survey = again.survey()
    again.train(survey)
    assert states(survey) == ["finished"]
    assert set(finished(again.tracker, digits).values()) == {1}
    assert not list((again.options.runs / "work").iterdir())


def lose_a_lease(epochs: int, tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Train on a machine whose first lease another one takes over after the first epoch; return its folder."""
    here = machine(tmp_path / "one", digits)
    (here.folder / "small.yaml").write_text(yaml.safe_dump({**SMALL, "recipe": {"epochs": epochs, "batch_size": 32}}))
    url, mine = url_of(here.options), hold.claims_of(here.options)
    assert url is not None and mine is not None
    rival, saved = Claims(url), checkpoint.save
    taken: list[str] = []
    has_left = threading.Event()
    #: epochs that were done here while the rival had the run
    wasted: set[object] = set()

    def leave() -> None:
        while not files.is_free(here.options.lock_file(taken[0])):
            time.sleep(0.02)
        has_left.set()
        rival.release(taken[0])

    def save(path: Path, state: dict[str, object]) -> None:
        saved(path, state)
        if not taken:
            taken.append(path.parent.name)
            expire(str(url), taken[0])
            assert rival.claim(taken[0], "the second machine")
            if epochs > 1:
                mine.renew()
            threading.Thread(target=leave, daemon=True).start()
        if path.parent.name == taken[0] and not has_left.is_set():
            wasted.add(state["epochs_done"])

    monkeypatch.setattr(claims, "LEASE_SECONDS", 60.0)  # no renewal by the thread
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(pace, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(execute, "LOOK_SECONDS", 0.0)
    survey = here.survey()
    said = here.train(survey)
    assert has_left.is_set() and not wasted & {2, 3}
    lost = [line for line in said if line.endswith("its lease ended, and the second machine took it over")]
    assert len(lost) == 1, said
    assert states(survey) == ["finished"]
    assert set(finished(here.tracker, digits).values()) == {1}
    return here


def test_a_lane_whose_lease_another_machine_took_over_is_dropped_by_a_renewal(
    shared: Path, tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_a_lease(3, tmp_path, digits, monkeypatch)


def test_a_lease_that_is_lost_is_noticed_at_the_end_of_a_run_and_a_teacher_whose_weights_stay_is_named(
    shared: Path, tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        first = lose_a_lease(1, tmp_path, digits, patch)
    second = machine(tmp_path / "two", digits)
    for file in (shared / "artifacts").rglob("student.safetensors"):
        file.unlink()
    for run in first.tracker.runs_on(digits.digest):
        if run.tags["role"] == "student":  # so that the second machine needs the teacher
            first.tracker.delete(run.run_id)
    survey = second.survey()
    second.train(survey)
    assert states(survey) == ["failed"]
    assert survey.entries[0].reason.startswith(
        f"its teacher resnet8 failed: it was trained on {platform.node()} and its weights cannot be had: there is no"
    )
    assert "--claims none" in survey.entries[0].reason
    assert set(finished(first.tracker, digits).values()) == {1}
    alone = replace(second.options, claims="none")
    second.options = alone
    survey = second.survey()
    second.train(survey)
    assert states(survey) == ["finished"]


def test_a_run_that_a_live_lease_holds_is_not_ended(shared: Path, tmp_path: Path, digits: DataSet) -> None:
    """Two machines that share a runs folder, whose file locks do not reach from one to the other."""
    here = machine(tmp_path / "one", digits)
    experiment, entry = here.tracker.experiment("small", {}), here.survey().teacher_entries["resnet8"]
    signature, tags = str(entry.signature), {"runs_folder": here.options.identity()}
    run_id = here.tracker.start(
        experiment, entry.config, signature, digits, role="teacher", name="a", parent=None, tags=tags
    )
    url = url_of(here.options)
    assert url is not None
    other = Claims(url)
    assert other.claim(signature, "the other")
    with hold.held(here.options, signature) as is_held:
        assert not is_held
    reconcile.reconcile(here.options, here.tracker)
    assert here.tracker.is_running(run_id)
    other.release(signature)
    reconcile.reconcile(here.options, here.tracker)
    assert not here.tracker.is_running(run_id)
