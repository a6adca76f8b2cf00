"""The run of a pair says what its methods reached, whichever commands trained the seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution import engines, pair_means
from benchmark.execution.engines.inline import InlineEngine
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Survey
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.tracking import Tracker
from tests.benchmark.execution.test_execute import SMALL, Measured, Quiet
from tests.benchmark.test_tracking import start

METHODS = {"vanilla": {}, "kd": {}, "dkd": {}}


class Commands:
    """Commands on one runs folder, with what MLflow shows of the pair's run after each."""

    def __init__(self, folder: Path, data: DataSet) -> None:
        small = {**SMALL, "recipe": {"epochs": 1, "batch_size": 32}, "methods": METHODS}
        (folder / "small.yaml").write_text(yaml.safe_dump(small))
        self.folder, self.data, self.options = folder, data, Options(runs=folder / "runs", data_root=folder)
        self.tracker = Tracker(self.options.runs)

    def survey(self, *methods: str, seeds: int, changes: tuple[str, ...] = ()) -> Survey:
        chosen = suite.load(str(self.folder / "small.yaml"))
        plan = make_plan(chosen, methods=methods, seeds=seeds, assignments=changes)
        found = Survey(plan, self.options, self.data, self.tracker)
        found.look()
        return found

    def run(self, *methods: str, seeds: int, changes: tuple[str, ...] = ()) -> Survey:
        found = self.survey(*methods, seeds=seeds, changes=changes)
        Execution(found, self.tracker, Measured(self.data, torch.device("cpu"), 1), Quiet()).run()
        return found

    def shown(self, pair: str = "resnet8 -> resnet8_half") -> dict[str, float]:
        (experiment,) = self.tracker.experiments().values()
        (run,) = self.tracker.client.search_runs([experiment], f"attributes.run_name = '{pair}'")
        return dict(run.data.metrics)


@pytest.fixture
def commands(tmp_path: Path, runs_folder: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setitem(engines.registry._entries, "local", InlineEngine)
    return Commands(tmp_path, digits)


def accuracies(survey: Survey, method: str) -> list[float]:
    return [entry.figures["final/last"] for entry in survey.entries if entry.config.method == method]


def test_means_are_of_all_seeds_with_the_same_settings(commands: Commands) -> None:
    two = commands.run("vanilla", "kd", seeds=2)
    kd, alone = accuracies(two, "kd"), accuracies(two, "vanilla")
    assert commands.shown() == pair_means.figures("kd", kd)
    assert commands.shown("resnet8_half alone") == pair_means.figures("vanilla", alone)
    assert commands.shown("teachers") == {}
    # other settings are other figures, and a setting of another method is none of this one's
    changed = commands.run("kd", "vanilla", seeds=1, changes=("kd.temperature=9", "recipe.lr=0.01"))
    named = pair_means.figures("kd kd.temperature:9 recipe.lr:0.01", accuracies(changed, "kd"))
    assert commands.shown() == {**pair_means.figures("kd", kd), **named}
    assert "n/vanilla recipe.lr:0.01" in commands.shown("resnet8_half alone")
    runs = commands.tracker.client.search_runs([*commands.tracker.experiments().values()], "tags.role = 'student'")
    names = {run.info.run_name: run.data.tags["variant"] for run in runs}
    assert len(names) == len(runs) == 6
    assert names["kd kd.temperature:9 recipe.lr:0.01 seed 1"] == "kd kd.temperature:9 recipe.lr:0.01"
    assert names["vanilla seed 2"] == "vanilla"
    # another seed joins, and a command that asks for fewer forgets none; runs of an earlier version get their tag
    commands.run("kd", seeds=1)
    assert commands.shown()["n/kd"] == 2
    old = str(two.entries[2].run_id)
    commands.tracker.client.delete_tag(old, "variant")
    more = commands.run("kd", seeds=3)
    assert commands.tracker.tags(old)["variant"] == "kd"
    assert commands.shown() == {**pair_means.figures("kd", accuracies(more, "kd")), **named}
    assert commands.shown()["n/kd"] == 3


def test_means_are_written_again_after_a_kill(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise UserError("killed here")

        patch.setattr(pair_means, "update", killed)
        with pytest.raises(UserError, match="killed here"):
            commands.run("kd", seeds=1)
    assert commands.shown() == {}
    kept = commands.run("kd", seeds=1)
    assert commands.shown() == pair_means.figures("kd", accuracies(kept, "kd"))
    before = commands.tracker.client.get_metric_history(str(kept.entries[0].parent_id), "mean/kd")
    commands.run("kd", seeds=1)
    assert commands.tracker.client.get_metric_history(str(kept.entries[0].parent_id), "mean/kd") == before


def test_a_run_that_another_command_finished_counts(commands: Commands, digits: DataSet) -> None:
    """Two commands that share a pair: whoever ends later writes the mean of both."""
    early, late = commands.survey("kd", seeds=1), commands.run("kd", seeds=2)
    values = accuracies(late, "kd")
    Execution(early, commands.tracker, Measured(digits, torch.device("cpu"), 1), Quiet()).run()
    assert commands.shown() == pair_means.figures("kd", values)
    commands.tracker.client.delete_run(str(late.entries[1].run_id))
    commands.run("kd", seeds=1)
    assert commands.shown()["n/kd"] == 1


def test_means_are_over_one_teacher(commands: Commands, digits: DataSet) -> None:
    """Two runs folders on one server train a teacher each: three seeds are not six of one spread."""
    entry = commands.run("kd", seeds=1).entries[0]
    other, tracker = "d" * 64, commands.tracker
    lasts = {2: 20.0, 3: 30.0}
    for seed, last in lasts.items():
        config = entry.config.model_copy(update={"repetition": seed})
        run_id = tracker.start(
            tracker.experiment("small", {}), config, config.signature(digits.digest, other), digits, role="student",
            name=f"kd seed {seed}", parent=entry.parent_id, tags={"teacher": "resnet8", "teacher_checksum": other},
        )  # fmt: skip
        tracker.summarise(run_id, {"final/last": last})
        tracker.end(run_id, "FINISHED")
    two = commands.run("kd", seeds=2)
    # two of each: those that were there first
    assert commands.shown() == pair_means.figures("kd", accuracies(two, "kd"))


def test_pairs_that_were_deleted_are_left_alone(commands: Commands) -> None:
    survey = commands.run("kd", seeds=1)
    parent = str(survey.entries[0].parent_id)
    commands.tracker.client.delete_run(parent)
    before = commands.tracker.client.get_run(parent)
    commands.run("kd", seeds=1)
    after = commands.tracker.client.get_run(parent)
    assert after.info.lifecycle_stage == "deleted"
    assert after.data.metrics == before.data.metrics


def test_names_are_such_that_mlflow_takes_them(commands: Commands, digits: DataSet) -> None:
    changes = ("kd.temperature=9", "dkd.beta=2", "recipe.milestones=[1,2]")
    plan = commands.survey("kd", seeds=1, changes=changes[::2]).plan
    assert pair_means.name_of(plan, "kd") == "kd kd.temperature:9 recipe.milestones:-1-2-"
    run_id = start(commands.tracker, digits, "s1")
    commands.tracker.summarise(run_id, pair_means.figures(pair_means.name_of(plan, "kd"), [80.123, 81.0]))
    assert commands.tracker.metrics(run_id) == {
        "mean/kd kd.temperature:9 recipe.milestones:-1-2-": 80.56,
        "std/kd kd.temperature:9 recipe.milestones:-1-2-": 0.62,
        "n/kd kd.temperature:9 recipe.milestones:-1-2-": 2.0,
    }
