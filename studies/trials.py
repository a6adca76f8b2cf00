"""A study's trials as cohorts: asked for together, trained side by side on one teacher, ended together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import pandas as pd
import torch
from optuna.trial import Trial

import distillers
from benchmark import command_line
from benchmark.analysis.methods import title_of
from benchmark.config import RunConfig
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import patiently
from benchmark.execution.estimate import Costs
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.progress import View
from benchmark.execution.survey import Entry, Survey
from benchmark.plan.resolve import Plan, PlannedRun, make_plan
from benchmark.plan.suite import Suite, form_of
from benchmark.saved_views import STUDIES
from benchmark.tracking import Tracker
from benchmark.train import teacher_store
from studies.base import Choice
from studies.search import HEARTBEAT_SECONDS, Reference, Search

#: share of the training set that trials are ranked on, where the suite holds out none
VAL_FRACTION = 0.1
#: confirmation runs use repetitions from here on, which no trial used
CONFIRM_FROM = 101


class Ended(IntEnum):
    """How the training of a study ended, as the exit code of its command."""

    DONE, STOPPED, OUT_OF_TIME = 0, command_line.EXIT_STOPPED, command_line.EXIT_DEADLINE


OnEpoch = Callable[[Entry, dict[str, float]], bool]


@dataclass(frozen=True)
class Ground:
    """The suite and pair that a study runs on, and the settings that the command line changes."""

    suite: Suite
    profile: str | None
    pair: str
    assignments: tuple[str, ...]
    device: str

    def plan(self, choice: Choice, seeds: int, tuning: bool) -> Plan:
        """Plan the runs of a choice under repetitions 1 to `seeds`.

        Hyperparameters from the command line that the choice's method does not have are left out.

        Raises:
            UserError: for a choice that the suite or its methods refuse.
        """
        held_out = (f"data.val_fraction={VAL_FRACTION}",) if tuning and not self.holds_out else ()
        every_group = {group for name in distillers.names() for group in distillers.groups(name)}
        foreign = every_group - distillers.groups(choice.method).keys()
        own = [text for text in self.assignments if text.partition("=")[0].partition(".")[0] not in foreign]
        return make_plan(
            self.suite,
            profile=self.profile,
            methods=[choice.method],
            pairs=[self.pair],
            seeds=seeds,
            assignments=[*held_out, *own, *choice.assignments],
            device=self.device,
            tuning=tuning,
        )

    @property
    def holds_out(self) -> bool:
        """Whether the suite or the command line sets a validation split."""
        of_profile = form_of(self.suite, self.profile).data
        set_here = any(text.startswith("data.val_fraction=") for text in self.assignments)
        return set_here or bool({**self.suite.data, **of_profile}.get("val_fraction"))


class StudyExecution:
    """Executes planned runs of one study, all below the study's run in MLflow."""

    def __init__(self, title: str, suite: str, data: DataSet, options: Options, tracker: Tracker, view: View) -> None:
        self.title, self.data, self.options, self.tracker, self.view = title, data, options, tracker, view
        self._deadline = None if options.deadline is None else Deadline(options.deadline, options.imports_s)
        #: the experiment in MLflow, of all profiles of the suite
        self.experiment = f"{STUDIES}{suite}"
        self._costs = Costs(data, torch.device(options.device), options.threads)
        self.problems: list[str] = []
        self.was_stopped = self.is_out_of_time = False
        #: id of the study's own run in MLflow, once something was trained
        self.run_id: str | None = None

    @property
    def ended(self) -> Ended:
        """How the training ended so far."""
        return Ended.OUT_OF_TIME if self.is_out_of_time else Ended.STOPPED if self.was_stopped else Ended.DONE

    def can_start(self) -> bool:
        """Whether there is time to train; without it, the study is out of time."""
        if self._deadline is not None and not self._deadline.can_start():
            self.was_stopped = self.is_out_of_time = True
        return not self.is_out_of_time

    def has_seen_everything(self, teacher: str) -> bool:
        """Whether a teacher's weights were imported: they were trained on all images, also those that rank trials."""
        found = teacher_store.find(self.options.teachers, self.data, teacher, signature="")
        return found is not None and found[1].signature is None

    def train(
        self,
        plans: Sequence[Plan],
        runs: Sequence[PlannedRun],
        on_epoch: OnEpoch | None = None,
        on_look: Callable[[], None] = lambda: None,
    ) -> list[Entry]:
        """Train the runs, with the teachers of the plans; return one entry per run, in order.

        `on_epoch` and `on_look` are those of `Execution`.
        """
        recipes: dict[str, RunConfig] = {}
        for plan in plans:
            recipes |= plan.teachers
        whole = replace(plans[0], profile=None, runs=tuple(runs), teachers=recipes, experiment=self.experiment)
        survey = Survey(whole, self.options, self.data, self.tracker)
        patiently(survey.look, self.tracker, self.view.say, self.options.patience_s)
        execution = Execution(
            survey, self.tracker, self._costs, self.view, self.title, on_epoch, on_look, self._deadline
        )
        execution.run()
        self.run_id = execution.parent_run_id or self.run_id
        self.problems += execution.problems
        self.was_stopped |= execution.was_stopped
        self.is_out_of_time |= execution.is_out_of_time
        if execution.user_error is not None:
            raise UserError(execution.user_error)
        return survey.entries


class TrialBatch:
    """Trials that were asked for together, until their results are told."""

    def __init__(self, search: Search, ground: Ground, trials: Sequence[tuple[Trial, Choice]]) -> None:
        self.search, self.ground = search, ground
        self.trials = {trial.number: trial for trial, _ in trials}
        self.seeds = search.definition.seeds
        self.plans = {trial.number: ground.plan(choice, self.seeds, tuning=True) for trial, choice in trials}
        self._values: dict[int, dict[int, float]] = {number: {} for number in self.trials}
        self._run_ids: dict[int, list[str]] = {number: [] for number in self.trials}
        self._reasons: dict[int, str] = {}
        self._pruned: set[int] = set()
        #: trials with a run that did not come to its end
        self._crashed: set[int] = set()
        self._last_heartbeat = time.time()
        self._tags = {"study": search.title}

    def train(self, execution: StudyExecution) -> bool:
        """Train all trials and tell each; False when stopped, with the trials that have not ended re-queued.

        With several seeds and a pruner, the seeds are the steps: each is trained for all trials that are left before
        the next, and a pruned trial trains no further. With one seed the epochs are the steps.
        """
        if execution.has_seen_everything(self.ground.pair.partition(":")[0]):
            self._tags["teacher_saw_val"] = "true"
        prunes = self.search.definition.pruner != "none"
        stages = [[seed] for seed in range(1, self.seeds + 1)] if prunes else [list(range(1, self.seeds + 1))]
        for stage in stages:
            open_trials = [
                number for number in self.trials if number not in self._pruned and number not in self._reasons
            ]
            if not open_trials:
                break
            runs = [run for number in open_trials for run in self._runs(number, stage)]
            entries = execution.train(list(self.plans.values()), runs, self._on_epoch, self._beat)
            for entry in entries:
                self._note(entry)
            if execution.was_stopped:
                self.search.retry(list(self.trials.values()))
                return False
            if prunes and self.seeds > 1:
                self._prune_by_seed(open_trials, stage[0])
        for number, trial in self.trials.items():
            self._tell(number, trial)
        return True

    def _runs(self, number: int, stage: Sequence[int]) -> list[PlannedRun]:
        return [
            replace(
                run,
                title=f"trial {number}, seed {run.config.repetition}",
                tags={**self._tags, "trial": str(number)},
            )
            for run in self.plans[number].runs
            if run.config.repetition in stage
        ]

    def _beat(self) -> None:
        """Record now and then that the trials are alive, also while their teacher is trained."""
        if time.time() - self._last_heartbeat > HEARTBEAT_SECONDS:
            self._last_heartbeat = time.time()
            self.search.heartbeat(list(self.trials.values()))

    def _on_epoch(self, entry: Entry, row: dict[str, float]) -> bool:
        """Report an epoch of a run; True to prune its trial, never before the first decay of its learning rate."""
        if self.search.definition.pruner == "none" or self.seeds > 1 or "val/top1" not in row:
            return False
        number, epoch = int(entry.tags["trial"]), int(row["epoch"])
        if not self.search.report(self.trials[number], row["val/top1"], epoch):
            return True  # another worker has its point
        decays = entry.config.recipe.milestones
        return bool(decays) and epoch > decays[0] and self.trials[number].should_prune()

    def _prune_by_seed(self, numbers: Sequence[int], seed: int) -> None:
        for number in numbers:
            if seed not in self._values[number]:
                continue
            is_ours = self.search.report(self.trials[number], self._values[number][seed], seed)
            if not is_ours or (seed < self.seeds and self.trials[number].should_prune()):
                self._pruned.add(number)

    def _note(self, entry: Entry) -> None:
        number = int(entry.tags["trial"])
        if entry.run_id is not None:
            self._run_ids[number].append(entry.run_id)
        if entry.state == "finished":
            self._values[number][entry.config.repetition] = entry.figures["final/val"]
        elif entry.state == "dropped":
            self._pruned.add(number)
        else:  # whatever it is, it has no value
            if entry.state != "failed":  # its process was killed, or that of its teacher
                self._crashed.add(number)
            self._reasons[number] = entry.reason or f"a run is {entry.state}"

    def _tell(self, number: int, trial: Trial) -> None:
        values = list(self._values[number].values())
        about = {
            "runs": self._run_ids[number],
            "values": {str(seed): value for seed, value in self._values[number].items()},
            "num_seeds": len(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            **({"teacher_saw_val": True} if "teacher_saw_val" in self._tags else {}),
        }
        if number in self._crashed and "instead_of" not in trial.user_attrs:
            self.search.retry([trial])  # once: what kills its process may be the trial
        elif number in self._reasons:
            self.search.tell(trial, None, **about, reason=self._reasons[number])
        elif number in self._pruned:
            self.search.prune(trial, **about)
        else:
            self.search.tell(trial, statistics.fmean(values), **about)


def measure_reference(search: Search, ground: Ground, execution: StudyExecution) -> None:
    """Train the plain method, the last of the baselines, as a trial is trained; the study remembers what it reached."""
    if search.reference is not None:
        return
    choice = search.definition.baselines()[-1]
    plan = ground.plan(choice, search.definition.seeds, tuning=True)
    tags = {"study": search.title, "reference": choice.label}
    runs = [
        replace(run, title=f"reference {choice.label}, seed {run.config.repetition}", tags=tags) for run in plan.runs
    ]
    values = [entry.figures["final/val"] for entry in execution.train([plan], runs) if entry.state == "finished"]
    if len(values) == len(runs):
        std = statistics.stdev(values) if len(values) > 1 else None
        mean = statistics.fmean(values)
        search.remember(Reference(choice.label, title_of(choice.method), mean, std, len(values)))


def num_runs(
    search: Search, ground: Ground, data: DataSet, options: Options, seeds: int, trials_only: bool = False
) -> int:
    """Count the runs that are left: trials, reference, a confirmation of `seeds` seeds, and teachers not yet stored."""
    choice = search.definition.baselines()[0]
    plans = [ground.plan(choice, 1, tuning=True)]
    count = search.num_left() * search.definition.seeds
    if not trials_only:
        count += search.definition.seeds if search.reference is None else 0
        count += seeds * (1 + len(search.definition.baselines()))
        plans += [ground.plan(choice, 1, tuning=False)] if seeds else []
    teachers = {config.signature(data.digest, None): model for plan in plans for model, config in plan.teachers.items()}
    return count + sum(
        teacher_store.find(options.teachers, data, model, signature) is None for signature, model in teachers.items()
    )


def confirmation_runs(ground: Ground, choice: Choice, seeds: int, title: str) -> tuple[Plan, list[PlannedRun]]:
    """Plan a choice on the whole training set, under seeds that no trial saw, evaluated on the test set."""
    plan = ground.plan(choice, seeds, tuning=False)
    runs = []
    for run in plan.runs:
        repetition = CONFIRM_FROM + run.config.repetition - 1
        config = run.config.model_copy(update={"repetition": repetition})
        name = f"confirm {choice.label}, seed {repetition}"
        runs.append(PlannedRun(config, run.pair, {"study": title, "confirms": choice.label}, name))
    return plan, runs


def confirm(search: Search, ground: Ground, execution: StudyExecution, seeds: int) -> pd.DataFrame | None:
    """Train winner and baselines and return one row per run: choice, is_winner, repetition, last (percent), run_id.

    A baseline that is the winner under another name is left out.
    """
    winner = search.winner()
    if winner is None:
        return None
    title = search.title
    made = {winner.label: confirmation_runs(ground, winner, seeds, title)}
    for choice in search.definition.baselines():
        plan, runs = confirmation_runs(ground, choice, seeds, title)
        if runs[0].config != made[winner.label][1][0].config:
            made[choice.label] = plan, runs
    entries = execution.train([plan for plan, _ in made.values()], [run for _, runs in made.values() for run in runs])
    rows = [
        {
            "choice": entry.tags["confirms"],
            "is_winner": entry.tags["confirms"] == winner.label,
            "repetition": entry.config.repetition,
            "last": entry.figures["final/last"],
            "run_id": entry.run_id,
        }
        for entry in entries
        if entry.state == "finished"
    ]
    return pd.DataFrame(rows, columns=["choice", "is_winner", "repetition", "last", "run_id"])
