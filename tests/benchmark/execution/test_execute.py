"""What becomes of planned runs: told apart, trained once, dropped; all of it below one run in MLflow."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution import delivery, engines, reconcile
from benchmark.execution.engines.inline import InlineEngine
from benchmark.execution.estimate import Costs
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, PlannedRun, make_plan
from benchmark.tracking import Tracked, Tracker
from benchmark.train import checkpoint, pace, teacher_store
from benchmark.train.lane import create_network, weights_of
from benchmark.train.messages import CohortJob, EngineEvent, EpochDone, Event, LaneFinished, Started

SMALL: dict[str, Any] = {
    "title": "small",
    "data": {"name": "digits", "num_train": 64, "num_test": 40, "val_fraction": 0.1},
    "recipe": {"epochs": 4, "batch_size": 32},
    "seeds": 1,
    "methods": {"kd": {}},
    "pairs": [{"teacher": "resnet8", "student": "resnet8_half"}],
}
PARENT = "a study"


class Quiet:
    """A view of nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def say(self, line: str) -> None:
        return

    def show(self, job: CohortJob, event: Event) -> None:
        return

    def ended(self, job: CohortJob) -> None:
        return


class Measured(Costs):
    """Costs nobody has to measure."""

    def cohort_s(self, configs: Any, epochs_done: int = 0) -> float:
        """Return any number."""
        return 1.0


class HandInHand(InlineEngine):
    """The engine in this process, which notes the lanes of every cohort, in the order they were submitted."""

    trained: list[list[str]]

    def submit(self, job: CohortJob) -> None:
        self.trained.append([lane.signature for lane in job.lanes])
        super().submit(job)


@pytest.fixture
def hand_in_hand(runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.registry._entries, "local", HandInHand)
    monkeypatch.setattr(HandInHand, "trained", [], raising=False)


def trial(folder: Path, number: int, temperature: float) -> tuple[Plan, PlannedRun]:
    plan = make_plan(suite.load(str(folder / "small.yaml")), assignments=[f"kd.temperature={temperature}"], tuning=True)
    tags = {"study": PARENT, "trial": str(number)}
    return plan, replace(plan.runs[0], tags=tags, title=f"trial {number}, seed 1")


class Study:
    """Trials on one runs folder, as a study plans them by hand."""

    def __init__(self, folder: Path, data: DataSet) -> None:
        self.folder, self.data = folder, data
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        self.options = Options(runs=folder / "runs", data_root=folder)
        self.tracker = Tracker(self.options.runs)
        plan, _ = trial(folder, 0, 1)
        teacher = plan.teachers["resnet8"]
        about = {"test_top1": 10.0, "device": "a CPU", "origin": "trained"}
        weights = weights_of(create_network("resnet8", data.num_classes, data.image_size, seed=7))
        teacher_store.store(
            self.options.teachers, data, "resnet8", weights, signature=teacher.signature(data.digest, None), **about
        )

    def survey(self, temperatures: Mapping[int, float]) -> Survey:
        planned = [trial(self.folder, number, value) for number, value in temperatures.items()]
        merged = {model: config for plan, _ in planned for model, config in plan.teachers.items()}
        survey = Survey(
            replace(planned[0][0], runs=tuple(run for _, run in planned), teachers=merged),
            self.options, self.data, self.tracker,
        )  # fmt: skip
        survey.look()
        return survey

    def train(self, survey: Survey, on_epoch: Callable[[Entry, dict[str, float]], bool] | None = None) -> Execution:
        costs = Measured(self.data, torch.device("cpu"), 1)
        execution = Execution(survey, self.tracker, costs, Quiet(), PARENT, on_epoch)
        assert execution.parent_run_id is None
        execution.run()
        assert execution.problems == []
        return execution

    def tracked(self, run_id: str | None) -> Tracked:
        return next(run for run in self.tracker.runs_on(self.data.digest) if run.run_id == run_id)

    def name(self, run_id: str | None) -> str:
        return str(self.tracker.client.get_run(run_id).info.run_name)


def states(survey: Survey) -> list[str]:
    return [entry.state for entry in survey.entries]


def test_trials_are_trained_once_dropped_and_planned_again(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "CHECKPOINT_SECONDS", 0.0)
    study = Study(tmp_path, digits)

    # 0 and 1 are the same run, of which 0 alone is given up; so are 3 and 4, which both are, one after the other
    asked: list[tuple[str, int]] = []
    given_up = {"0": 1, "2": 1, "3": 1, "4": 2}

    def on_epoch(entry: Entry, row: dict[str, float]) -> bool:
        assert entry.state == "new"
        assert "val/top1" in row
        assert not any(name.startswith("test/") for name in row)
        number, epoch = entry.tags["trial"], int(row["epoch"])
        asked.append((number, epoch))
        return given_up.get(number) == epoch

    first = study.survey({0: 2, 1: 2, 2: 8, 3: 9, 4: 9})
    execution = study.train(first, on_epoch)
    assert states(first) == ["finished", "finished", "dropped", "dropped", "dropped"]
    signatures = [str(entry.signature) for entry in first.entries]
    assert HandInHand.trained == [[signatures[0], signatures[2], signatures[3]]]
    epochs_asked = {number: [epoch for who, epoch in asked if who == number] for number in "01234"}
    assert epochs_asked == {"0": [1], "1": [1, 2, 3, 4], "2": [1], "3": [1], "4": [1, 2]}
    assert not list((study.options.runs / "work").iterdir())
    same, dropped = study.tracked(first.entries[0].run_id), study.tracked(first.entries[2].run_id)
    assert len(study.tracker.runs_on(digits.digest)) == 3
    assert [entry.run_id == same.run_id for entry in first.entries] == [True, True, False, False, False]
    assert first.entries[3].run_id == first.entries[4].run_id
    assert (same.status, same.metrics["final/val"]) == ("FINISHED", same.metrics["val/top1"])
    assert not [name for name in same.metrics if name.startswith(("test/", "final/last", "final/best"))]
    assert (same.tags["study"], same.tags["trial"], study.name(same.run_id)) == (PARENT, "0", "trial 0, seed 1")
    assert (dropped.status, dropped.tags["failure"]) == ("KILLED", "pruned")
    assert dropped.tags["failure_reason"] == first.entries[2].reason == "pruned after epoch 1 of 4"
    assert study.tracker.epochs_logged(dropped.run_id) == {1}
    assert first.entries[4].reason == "pruned after epoch 2 of 4"
    parents = {run.tags["mlflow.parentRunId"] for run in study.tracker.runs_on(digits.digest)}
    assert parents == {execution.parent_run_id}
    assert study.name(execution.parent_run_id) == PARENT

    # a trial that was only interrupted goes on in its own run, under what it is called now
    open_entry = study.survey({5: 3}).entries[0]
    experiment = study.tracker.experiment("small", {})
    cut = study.tracker.start(
        experiment, open_entry.config, str(open_entry.signature), digits, role="student", name="trial 4, seed 1",
        parent=None, tags={"trial": "4", "runs_folder": study.options.identity()},
    )  # fmt: skip
    study.tracker.end(cut, "KILLED", failure="retry")

    # the study again: what was dropped starts anew, in another run
    again = study.survey({0: 2, 2: 8, 5: 3})
    assert states(again) == ["finished", "new", "new"]
    assert [entry.epochs_done for entry in again.entries] == [0, 0, 0]
    resumed = study.train(again)
    assert states(again) == ["finished", "finished", "finished"]
    assert resumed.parent_run_id == execution.parent_run_id
    anew = study.tracked(again.entries[1].run_id)
    assert anew.run_id != dropped.run_id
    assert study.tracker.epochs_logged(anew.run_id) == {1, 2, 3, 4}
    assert study.tracked(dropped.run_id).status == "KILLED"
    reopened = study.tracked(cut)
    assert again.entries[2].run_id == cut
    assert (reopened.tags["trial"], reopened.tags["mlflow.parentRunId"]) == ("5", resumed.parent_run_id)
    parent = study.tracker.client.get_run(resumed.parent_run_id)
    assert parent.info.status == "FINISHED"


def test_a_run_that_several_ask_for_fails_for_all(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SMALL, "recipe", {"epochs": 2, "batch_size": 32, "lr": 1e30, "clip_norm": None})
    study = Study(tmp_path, digits)
    survey = study.survey({0: 2, 1: 2})
    Execution(survey, study.tracker, Measured(digits, torch.device("cpu"), 1), Quiet()).run()
    assert states(survey) == ["failed", "failed"]
    assert survey.entries[1].reason.startswith("the loss was not finite at epoch 1")
    assert len(HandInHand.trained) == 1


class DiesAfterALane(HandInHand):
    """The engine whose worker dies once a lane has ended: the cohort starts again for the rest, as Ray's does."""

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        started: Started | None = None
        for job, event in super().events():
            yield job, event
            if isinstance(event, Started):
                started = event
            elif isinstance(event, LaneFinished) and started is not None:
                yield job, started
                started = None


def test_a_run_that_ended_stays_ended_when_its_cohort_starts_again(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.registry._entries, "local", DiesAfterALane)
    monkeypatch.setitem(SMALL, "recipe", {"epochs": 1, "batch_size": 32})
    study = Study(tmp_path, digits)
    survey = study.survey({0: 2, 1: 8})
    study.train(survey)
    assert states(survey) == ["finished", "finished"]
    assert len(HandInHand.trained) == 1
    assert [study.tracked(entry.run_id).status for entry in survey.entries] == ["FINISHED", "FINISHED"]


def plan_of(folder: Path) -> Plan:
    return make_plan(suite.load(str(folder / "small.yaml")))


@dataclass
class Folder:
    """A runs folder with nothing in it, and a plan of a teacher and a student."""

    folder: Path
    data: DataSet

    def __post_init__(self) -> None:
        (self.folder / "small.yaml").write_text(yaml.safe_dump({**SMALL, "recipe": {"epochs": 1, "batch_size": 32}}))
        self.options = Options(runs=self.folder / "runs", data_root=self.folder)
        self.tracker = Tracker(self.options.runs)

    def survey(self) -> Survey:
        found = Survey(plan_of(self.folder), self.options, self.data, self.tracker)
        found.look()
        return found

    def train(self, survey: Survey, heard: Callable[[str], None] = lambda text: None) -> list[str]:
        """Train what the survey found, and return what was said, which `heard` hears at once."""
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            heard(text)

        view = Quiet()
        view.say = say  # type: ignore[method-assign]
        Execution(survey, self.tracker, Measured(self.data, torch.device("cpu"), 1), view).run()
        return said

    def train_until(self, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Train until a call of the tracker, which ends the command as a kill would."""

        def killed(*_: object) -> None:
            raise UserError("killed here")

        with monkeypatch.context() as patch:
            patch.setattr(Tracker, call, killed)
            with pytest.raises(UserError, match="killed here"):
                self.train(self.survey())

    def statuses(self) -> dict[str, str]:
        """Status of every run by name, those of pairs included; fails when a name is there twice."""
        found = self.tracker.client.search_runs(self.tracker._experiment_ids())
        names = [run.info.run_name for run in found]
        assert len(names) == len(set(names)), names
        return {run.info.run_name: run.info.status for run in found}


#: every run of the plan, and the runs they are nested in
DONE = dict.fromkeys(("teachers", "teacher resnet8", "resnet8 -> resnet8_half", "kd seed 1"), "FINISHED")


def test_whoever_locks_a_run_looks_again(tmp_path: Path, digits: DataSet, hand_in_hand: None) -> None:
    here = Folder(tmp_path, digits)
    early, late = here.survey(), here.survey()
    here.train(early)
    assert len(HandInHand.trained) == 2
    checksum = early.teachers["resnet8"].checksum
    here.train(late)
    assert len(HandInHand.trained) == 2
    assert states(late) == ["finished"]
    assert late.entries[0].run_id == early.entries[0].run_id
    assert late.teachers["resnet8"].checksum == checksum
    assert here.statuses() == DONE


def test_what_was_logged_before_a_kill_is_not_logged_again(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Folder(tmp_path, digits)

    here.train_until("artifacts", monkeypatch)
    survey = here.survey()
    here.train(survey)
    assert here.statuses() == DONE
    run_id = survey.teacher_entries["resnet8"].run_id
    for name in ("final/last", "test/top1", "lr"):
        assert len(here.tracker.client.get_metric_history(run_id, name)) == 1, name


@pytest.mark.parametrize("held", ["teacher", "student"])
def test_what_another_process_leaves_is_waited_for_and_taken_over(
    held: str, tmp_path: Path, digits: DataSet, hand_in_hand: None
) -> None:
    here = Folder(tmp_path, digits)
    if held == "student":
        survey = here.survey()
        here.train(survey)  # the teacher is there ...
        here.tracker.client.delete_run(str(survey.entries[0].run_id))  # ... and the student to be trained again
        HandInHand.trained.clear()
    survey = here.survey()
    entry = survey.teacher_entries["resnet8"] if held == "teacher" else survey.entries[0]
    lock = FileLock(here.options.lock_file(str(entry.signature)), thread_local=False)
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    said = here.train(survey, heard=lambda text: lock.release())
    assert said[0] == f"{entry.label}: another process is training it; waiting for it"
    assert len(HandInHand.trained) == (2 if held == "teacher" else 1)
    assert states(survey) == ["finished"]
    assert here.statuses() == DONE


def test_a_teacher_that_was_stored_but_not_recorded_is_completed(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Folder(tmp_path, digits)

    here.train_until("summarise", monkeypatch)
    survey = here.survey()
    before = survey.teachers["resnet8"].path.stat().st_mtime_ns
    entry = survey.teacher_entries["resnet8"]
    assert (entry.state, entry.epochs_done) == ("resume", 1)
    assert here.statuses()["teacher resnet8"] == "RUNNING"
    here.train(survey)
    assert survey.teachers["resnet8"].path.stat().st_mtime_ns == before
    assert here.statuses() == DONE
    assert "final/last" in here.tracker.client.get_run(entry.run_id).data.metrics
    assert {file.path for file in here.tracker.client.list_artifacts(entry.run_id)} >= {"student.safetensors"}
    assert not list((here.options.runs / "work").iterdir())


def test_a_teacher_that_is_trained_again_goes_on_from_its_checkpoint(
    tmp_path: Path, digits: DataSet, hand_in_hand: None
) -> None:
    """Its finished run is on record, and its weights are nowhere any more."""
    here = Folder(tmp_path, digits)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    here.train(here.survey())
    shutil.rmtree(here.options.teachers)
    for weights in tmp_path.rglob("student.safetensors"):
        weights.unlink()
    stopping, view = here.survey(), Quiet()
    execution = Execution(stopping, here.tracker, Measured(digits, torch.device("cpu"), 1), view)
    view.show = lambda job, event: execution._interrupt() if isinstance(event, EpochDone) else None  # type: ignore[method-assign]
    execution.run()
    assert execution.was_stopped
    assert reconcile.finished_work(here.options, here.tracker) == []
    again = here.survey()
    teacher = again.teacher_entries["resnet8"]
    assert (teacher.state, teacher.epochs_done) == ("resume", 1)
    here.train(again)
    assert again.teachers.keys() == {"resnet8"}
    assert states(again) == ["finished"]


def test_a_start_puts_right_what_killed_processes_left(tmp_path: Path, digits: DataSet, hand_in_hand: None) -> None:
    here = Folder(tmp_path, digits)
    survey = here.survey()
    here.train(survey)
    client, run_id = here.tracker.client, str(survey.entries[0].run_id)
    parent = client.get_run(run_id).data.tags["mlflow.parentRunId"]
    # killed after the run was ended, before its files were deleted and its parent was ended
    client.update_run(parent, status="RUNNING")
    leftover = here.options.work(str(survey.entries[0].signature))
    leftover.mkdir(parents=True)
    # killed while it trained, by another plan than this one
    config = survey.entries[0].config.model_copy(update={"repetition": 7})
    about = {"role": "student", "name": "kd seed 7", "parent": parent, "tags": {"runs_folder": here.options.identity()}}
    cut = here.tracker.start(here.tracker.experiment("small", {}), config, "7" * 16, digits, **about)  # type: ignore[arg-type]
    unfinished = here.options.work("7" * 16)
    unfinished.mkdir()
    (unfinished / "checkpoint").write_bytes(b"")
    # and while the store was away: its checkpoint has an epoch that the store does not have
    away = here.tracker.start(here.tracker.experiment("small", {}), config, "9" * 16, digits, **about)  # type: ignore[arg-type]
    rows = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.2}]
    here.tracker.log_epochs(away, rows[:1])
    state = {"signature": "9" * 16, "epochs_done": 2, "history": rows}
    checkpoint.save(here.options.work("9" * 16) / "checkpoint", state)
    # trained on now
    busy = here.tracker.start(
        here.tracker.experiment("small", {}), config, "8" * 16, digits, **{**about, "parent": None}
    )  # type: ignore[arg-type]
    with FileLock(here.options.lock_file("8" * 16)):
        here.train(here.survey())
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(cut).info.status == client.get_run(away).info.status == "KILLED"
    assert [(point.step, point.value) for point in client.get_metric_history(away, "lr")] == [(1, 0.1), (2, 0.2)]
    assert client.get_run(busy).info.status == "RUNNING"
    assert not leftover.exists()
    assert [file.name for file in unfinished.iterdir()] == ["checkpoint"]


def test_a_store_that_is_away_for_a_while_loses_nothing(
    tmp_path: Path, digits: DataSet, hand_in_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.01)
    here = Folder(tmp_path, digits)
    survey = here.survey()
    calls: Counter[str] = Counter()

    def flaky(name: str) -> Callable[..., Any]:
        made = getattr(Tracker, name)

        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            if calls[name] % 2:  # every other call is carried out, but its answer is lost
                made(*given, **named)
                raise MlflowException("connection lost", TEMPORARILY_UNAVAILABLE)
            return made(*given, **named)

        return call

    names = ("start", "log_epochs", "summarise", "artifacts", "end", "experiment", "parent", "unended", "runs_with")
    for name in names:
        monkeypatch.setattr(Tracker, name, flaky(name))
    here.train(survey)
    monkeypatch.undo()
    assert all(calls[name] for name in names)
    assert here.statuses() == DONE
    for run_id in (survey.entries[0].run_id, survey.teacher_entries["resnet8"].run_id):
        assert len(here.tracker.client.get_metric_history(run_id, "lr")) == 1
        assert len(here.tracker.client.get_metric_history(run_id, "final/last")) == 1
