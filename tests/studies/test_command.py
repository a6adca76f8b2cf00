"""Studies: what a batch tells, and the command end to end."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from optuna.pruners import BasePruner
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from benchmark import command_line, study, tracking
from benchmark.errors import UserError
from benchmark.execution.deadline import Deadline
from benchmark.execution.engines.local import LocalEngine
from benchmark.execution.survey import Entry, State
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, PlannedRun
from studies import command as module
from studies import search as search_module
from studies import tables
from studies import trials as trials_module
from studies.base import Choice
from studies.chance import Chance
from studies.questions.sdd_terms import SDDTerms
from studies.search import Search, frame, is_retried
from studies.trials import CONFIRM_FROM, Ground, TrialBatch, confirmation_runs
from tests.studies.test_search import Grid

SMALL: dict[str, Any] = {
    "title": "small",
    "data": {"name": "digits", "num_train": 96, "num_test": 60},
    "recipe": {"epochs": 4, "batch_size": 32, "milestones": [2, 3]},
    "methods": {"kd": {}, "sdd_kd": {}},
    "pairs": [{"teacher": "resnet8", "student": "resnet8_half"}],
}
#: the same, to be trained
SHORT = {
    **SMALL,
    "data": {"name": "digits", "num_train": 80, "num_test": 40},
    "recipe": {"epochs": 2, "batch_size": 32, "milestones": [1]},
}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return ground_in(tmp_path)


def ground_in(folder: Path, *assignments: str, fields: Mapping[str, Any] = SMALL) -> Ground:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(dict(fields)))
    return Ground(suite.load(str(path)), None, "resnet8:resnet8_half", assignments, "cpu")


# -- what a batch makes of its runs, with training played --------------------------------------------------------------

Score = Callable[[int, int, int], float]


@dataclass
class Played:
    """Stands in for an execution: the accuracy of (trial, seed, epoch) is a formula, and nothing is trained."""

    score: Score
    fails: frozenset[int] = frozenset()
    #: trials whose process is killed
    crashes: frozenset[int] = frozenset()
    left_as: State = "resume"
    stops: bool = False
    imported: bool = False
    was_stopped: bool = False
    #: (trial, seed, epochs) in the order of training
    trained: list[tuple[int, int, int]] = field(default_factory=list)
    tags: list[Mapping[str, str]] = field(default_factory=list)

    def has_seen_everything(self, teacher: str) -> bool:
        assert teacher == "resnet8"
        return self.imported

    def train(self, plans: Sequence[Plan], runs: Sequence[PlannedRun], on_epoch: Any, on_look: Any) -> list[Entry]:
        entries = []
        for run in runs:
            on_look()
            number, seed, epochs = int(run.tags["trial"]), run.config.repetition, run.config.recipe.epochs
            self.tags.append(run.tags)
            assert run.config.tuning
            assert run.config.data.val_fraction == 0.1
            entry = Entry(run.config, "student", run.label, "", tags=run.tags, title=run.title)
            entry.state = "finished"
            for epoch in range(1, epochs + 1):
                if on_epoch(entry, {"epoch": epoch, "val/top1": self.score(number, seed, epoch)}):
                    entry.state, epochs = "dropped", epoch
                    break
            if number in self.fails:
                entry.state, entry.reason = "failed", "the loss was not finite at epoch 1, step 3"
            if number in self.crashes:
                entry.state, entry.reason = self.left_as, "its process was killed"
            entry.run_id = f"{number}/{seed}/{epochs}"
            entry.figures = {"final/val": self.score(number, seed, epochs)}
            self.trained.append((number, seed, epochs))
            entries.append(entry)
        self.was_stopped = self.stops
        return entries


class Prunes(BasePruner):
    """Gives up trial 1 as soon as it is asked."""

    def prune(self, study: OptunaStudy, trial: FrozenTrial) -> bool:
        return trial.number == 1


def score(trial: int, seed: int, epoch: int) -> float:
    return 10 * trial + seed + epoch / 10


def batch(folder: Path, ground: Ground, played: Played, **study: Any) -> tuple[Search, bool]:
    kind = type("Kind", (Grid,), {"at_once": 3, **study})
    search = Search(kind(), "which", {}, folder)
    return search, TrialBatch(search, ground, search.ask()).train(played)  # type: ignore[arg-type]


def test_trials_are_told_mean_and_spread_over_their_seeds(tmp_path: Path, ground: Ground) -> None:
    search, done = batch(tmp_path, ground, Played(score), seeds=3)
    assert done
    rows = frame(search.trials()).query("state == 'complete'")
    assert rows["value"].tolist() == pytest.approx([2.4, 12.4, 22.4])
    assert rows["std"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert rows["num_seeds"].tolist() == [3, 3, 3]
    assert search.trials()[0].user_attrs["runs"] == ["0/1/4", "0/2/4", "0/3/4"]


def test_with_one_seed_epochs_are_steps_and_none_is_pruned_before_the_first_decay(
    tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "pruner_of", lambda *_: Prunes())
    played = Played(score)
    search, _ = batch(tmp_path, ground, played, pruner="median")
    # the rate decays after epoch 2
    assert played.trained == [(0, 1, 4), (1, 1, 3), (2, 1, 4)]
    trials = search.trials()
    assert [trial.state.name for trial in trials[:3]] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert trials[1].intermediate_values == {1: 11.1, 2: 11.2, 3: 11.3}
    assert trials[1].value == 11.3


def test_with_several_seeds_they_are_the_steps(tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "pruner_of", lambda *_: Prunes())
    played = Played(score)
    search, _ = batch(tmp_path, ground, played, pruner="wilcoxon", seeds=3)
    assert [(trial, seed) for trial, seed, _ in played.trained] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (0, 2),
        (2, 2),
        (0, 3),
        (2, 3),
    ]
    trials = search.trials()
    assert trials[1].state == TrialState.PRUNED
    assert trials[1].user_attrs["num_seeds"] == 1
    assert trials[2].intermediate_values == {1: 21.4, 2: 22.4, 3: 23.4}


def test_wilcoxon_gives_up_a_trial_that_loses_by_every_seed(tmp_path: Path, ground: Ground) -> None:
    """Not before the fourth, and beside the best trial of earlier batches."""
    kind = type("Kind", (Grid,), {"at_once": 2, "seeds": 8, "pruner": "wilcoxon"})
    search = Search(kind(), "which", {}, tmp_path)

    def worse(trial: int, seed: int, epoch: int) -> float:
        return 50 - 5 * trial + 0.01 * seed * (1 + trial)

    for _ in range(2):
        TrialBatch(search, ground, search.ask()).train(Played(worse))  # type: ignore[arg-type]
    seeds = [trial.user_attrs.get("num_seeds") for trial in search.trials()[:4]]
    assert seeds[0] == 8
    assert all(count is not None and 4 <= count < 8 for count in seeds[2:])


@pytest.mark.parametrize("imported", [True, False])
def test_trials_beside_a_teacher_that_saw_the_validation_images_are_tagged(
    imported: bool, tmp_path: Path, ground: Ground
) -> None:
    played = Played(score, imported=imported)
    search, _ = batch(tmp_path, ground, played)
    assert search.trials()[0].user_attrs.get("teacher_saw_val", False) is imported
    assert {"teacher_saw_val" in tags for tags in played.tags} == {imported}


def test_a_failed_run_fails_its_trial_alone(tmp_path: Path, ground: Ground) -> None:
    search, _ = batch(tmp_path, ground, Played(score, fails=frozenset({1})))
    states = [trial.state.name for trial in search.trials()[:3]]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert search.trials()[1].user_attrs["reason"] == "the loss was not finite at epoch 1, step 3"


@pytest.mark.parametrize("left_as", ["resume", "waiting"])
def test_a_trial_whose_process_is_killed_is_trained_again_once(tmp_path: Path, ground: Ground, left_as: State) -> None:
    """For want of memory, say, which may be the trial's doing or not; or that of its teacher, which it waits for."""
    search, done = batch(tmp_path, ground, Played(score, crashes=frozenset({1}), left_as=left_as))
    assert done
    assert [is_retried(trial) for trial in search.trials()[:3]] == [False, True, False]
    assert (search.num_left(), search.num_failed) == (7, 0)
    again = search.trials()[-1]
    assert again.state.name == "WAITING"
    while asked := search.ask():
        TrialBatch(search, ground, asked).train(Played(score, crashes=frozenset({again.number})))  # type: ignore[arg-type]
    assert search.trials()[again.number].user_attrs["reason"] == "its process was killed"
    assert (search.num_left(), search.num_failed) == (0, 1)


def test_a_batch_that_is_stopped_is_re_queued(tmp_path: Path, ground: Ground) -> None:
    search, done = batch(tmp_path, ground, Played(score, stops=True))
    assert not done
    assert len(frame(search.trials())) == 9
    assert {trial.state.name for trial in search.trials() if not is_retried(trial)} == {"WAITING"}


def test_confirmation_uses_the_whole_training_set_and_fresh_seeds(tmp_path: Path) -> None:
    ground = ground_in(tmp_path, "sdd.scales=1,2", "recipe.lr=0.02")
    _, runs = confirmation_runs(ground, Choice("sdd_kd", {"sdd.beta": 4}), 3, "which")
    assert [run.config.repetition for run in runs] == [CONFIRM_FROM, CONFIRM_FROM + 1, CONFIRM_FROM + 2]
    assert {run.config.data.val_fraction for run in runs} == {0.0}
    assert not any(run.config.tuning for run in runs)
    assert runs[0].config.parameters["sdd"]["scales"] == [1, 2]
    assert runs[0].config.parameters["sdd"]["beta"] == 4
    _, plain = confirmation_runs(ground, Choice("kd", {}), 1, "which")  # has no scales to set
    assert plain[0].config.recipe.lr == 0.02


# -- the command -------------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    text = io.StringIO()
    given = ["sdd_terms", "--suite", str(folder / "small.yaml"), "--runs", str(folder / "runs"), *arguments]
    code = study.main(given, Console(file=text, width=160, markup=False, highlight=False))
    return code, text.getvalue()


def refused(*_: object) -> None:
    """Stands in for the making of an engine that was not asked for."""
    raise AssertionError("the local engine was made")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study of four trials, confirmed by two seeds, all trained in this process."""
    folder = tmp_path_factory.mktemp("study")
    ground_in(folder, fields=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SDDTerms, "seeds", 1)
        # so short a training is hardly above chance
        patch.setattr(Chance, "level", lambda chance, num_guesses=1: chance.percent)
        patch.setattr(LocalEngine, "__init__", refused)
        code, text = command(folder, "--workers", "1", "--confirm", "2", "--engine", "inline")
    assert code == 0, text
    return folder, text


@pytest.mark.processes
@pytest.mark.xdist_group("study")
def test_every_trial_and_its_runs_know_each_other(ended: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = ended
    tracker = tracking.open_existing(folder / "runs")
    assert tracker is not None
    everything = {run.run_id: run for run in tracker.runs_in(list(tracker.experiments().values()))}
    monkeypatch.setattr(SDDTerms, "seeds", 1)
    given = study.parser().parse_args(["sdd_terms", "--suite", str(folder / "small.yaml")])
    ground = module.ground_of(given)
    about = {"suite": "small", "profile": None, "pair": "resnet8:resnet8_half", "set": []}
    search = Search(SDDTerms(), module.study_title(SDDTerms(), ground), about, folder / "runs" / "studies")
    trials = search.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    for trial in trials:
        (run_id,) = trial.user_attrs["runs"]
        run = everything[run_id]
        assert run.tags["trial"] == str(trial.number)
        assert run.tags["study"] == search.title
        assert run.metrics["final/val"] == pytest.approx(trial.value)
        assert not [name for name in run.metrics if name.startswith("test/")], "the test set was looked at"
    assert list(tracker.experiments()) == ["studies small"]
    assert {run.tags["suite"] for run in everything.values()} == {"small"}
    confirming = [run for run in everything.values() if "confirms" in run.tags]
    assert {int(run.tags["seed"]) for run in confirming} == {CONFIRM_FROM, CONFIRM_FROM + 1}
    assert all("test/top1" in run.metrics for run in confirming)
    parents = {run.tags["mlflow.parentRunId"] for run in everything.values()}
    assert len(parents) == 1
    parent = tracker.client.get_run(parents.pop())
    assert parent.data.tags["question"] == SDDTerms.question
    assert {"answer.png", "history.svg", "confirmed.csv", "trials.csv"} <= {
        one.path for one in tracker.client.list_artifacts(parent.info.run_id)
    }
    again: Any = SimpleNamespace(run_id=parent.info.run_id, tracker=tracker)  # as a second start does
    tables.log(search, again, {})
    assert len(tracker.client.get_metric_history(parent.info.run_id, "study/best_value")) == 1


@pytest.mark.processes
@pytest.mark.xdist_group("study")
def test_a_study_goes_on_after_its_deadline_with_the_same_values(
    ended: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every look takes a second."""
    monkeypatch.setattr(SDDTerms, "seeds", 1)
    monkeypatch.setattr(tables, "figures", lambda *_: {})  # drawn and asked for where the study was not interrupted
    ground_in(tmp_path, fields=SHORT)

    def sit(seconds: float) -> tuple[int, str]:
        looks = itertools.count(1)
        monkeypatch.setattr(trials_module, "Deadline", lambda *_: Deadline(seconds, clock=lambda: float(next(looks))))
        words = ("--workers", "1", "--confirm", "0", "--engine", "inline", "--deadline", "10h")
        return command(tmp_path, *words)

    code, text = sit(9)
    assert code == command_line.EXIT_DEADLINE
    assert not (tmp_path / "runs" / "work").exists()
    assert "Out of time, and everything saved. The same command resumes: " in text
    codes = [code]
    while codes[-1] == command_line.EXIT_DEADLINE and len(codes) < 30:
        code, text = sit(25)
        codes.append(code)
    assert codes[-1] == 0, text
    assert len(codes) > 3
    assert "Trials: 4 complete; 0 left." in text
    values = []
    for folder in (ended[0], tmp_path):
        (table,) = (folder / "runs" / "studies").glob("*/trials.csv")
        found = pd.read_csv(table).query("state == 'complete'")
        values.append(dict(zip(found["choice"], found["value"], strict=True)))
    assert values[0] == values[1]


@pytest.mark.processes
@pytest.mark.xdist_group("study")
def test_it_says_what_is_a_result_and_what_is_not(ended: tuple[Path, str]) -> None:
    folder, text = ended
    assert SDDTerms.question in text
    assert "Published: " in text
    assert "Tuning values" in text
    assert "Confirmed: sdd_terms on small" in text
    assert "(winner)" in text
    assert "Trials: 4 complete; 0 left." in text
    assert "teacher resnet8: " in text
    said = [line for line in text.splitlines() if line.startswith("teacher resnet8: ")]
    assert [line.partition("% on the ")[2] for line in said] == ["validation split, stored", "test set, stored"]
    assert "KD trained and measured as the trials are: " in text
    assert "Importance of the parameters is not computed: there is one parameter, terms." in text
    counts = [tuple(map(int, found)) for found in re.findall(r"(\d+)/(\d+) runs done", text)]
    assert {total for _, total in counts} == {13}  # 4 trials, the plain method, 3 choices by 2 seeds, 2 teachers
    assert all(done <= total for done, total in counts)
    assert "/runs?workflowType=machine_learning&viewStateShareKey=trials" in text
    (place,) = (path for path in (folder / "runs" / "studies").iterdir() if path.is_dir())
    assert {path.name for path in place.iterdir()} >= {"answer.png", "answer.svg", "confirmed.md", "timeline.png"}
    assert not list(place.glob("importance.*"))


@pytest.mark.processes
@pytest.mark.xdist_group("study")
def test_showing_trains_nothing_and_another_definition_is_refused(
    ended: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = ended
    with pytest.raises(UserError, match="with another seeds: give --fresh"):
        command(folder, "--show")
    monkeypatch.setattr(SDDTerms, "seeds", 1)
    code, text = command(folder, "--show")
    assert code == 0
    assert "Trials: 4 complete; 0 left." in text
    assert "Confirmed" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "resnet8"], "--pair resnet8: write it as teacher:student"),
        (["--pair", "resnet8:resnet9"], "unknown model 'resnet9'"),
        (["--set", "sdd.consistent=0"], "study 'sdd_terms' varies sdd.consistent itself"),
        (["--set", "sdd.gamma=0"], "sdd.gamma: unknown"),
        (["--set", "data.val_fraction=0.9"], "data.val_fraction"),
        (["--suite", "cifr100"], "cifar100"),
        (["--show", "--runs", "/nowhere"], "was not started under /nowhere"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path: Path, arguments: list[str], message: str) -> None:
    ground_in(tmp_path)
    with pytest.raises(UserError) as caught:
        command(tmp_path, *arguments)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("runs/studies/*.journal"))


def test_without_a_name_all_are_listed() -> None:
    text = io.StringIO()
    assert study.main([], Console(file=text, width=160)) == 0
    assert "sdd_beta_continuous" in text.getvalue()
    assert "`python -m benchmark list`" in text.getvalue()
    message = r"unknown study 'sdd_bta'; did you mean 'sdd_beta'.* \(list them with `python -m benchmark.study`\)"
    with pytest.raises(UserError, match=message):
        study.main(["sdd_bta"], Console(file=text))
