"""What becomes of planned runs: told apart, trained once, dropped; all of it below one run in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.datasets.base import DataSet
from benchmark.execution import engines
from benchmark.execution.engines.inline import InlineEngine
from benchmark.execution.estimate import Costs
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, PlannedRun, make_plan
from benchmark.tracking import Tracked, Tracker
from benchmark.train import loop, teacher_store
from benchmark.train.lane import create_network, weights_of
from benchmark.train.messages import CohortJob, Event

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
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
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
