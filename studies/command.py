"""Run the trials of a study, confirm its winner, and write tables and figures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial

import pandas as pd
from optuna.trial import FixedTrial
from rich.console import Console

from benchmark import command_line, datasets, files, logs, process, tracking
from benchmark.errors import UserError, among
from benchmark.execution import progress
from benchmark.execution.delivery import patiently
from benchmark.execution.options import Options
from benchmark.plan.suite import form_of, load
from benchmark.train.batches import splits
from studies import questions, tables
from studies.base import Study
from studies.chance import Chance
from studies.search import Search, slug
from studies.trials import (
    VAL_FRACTION,
    Ended,
    Ground,
    StudyExecution,
    TrialBatch,
    confirm,
    measure_reference,
    num_runs,
)
from studies.workers import end_with_stdin, watch


def command(given: argparse.Namespace, arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    if given.end_with_stdin:
        end_with_stdin()
    definition = questions.registry.get(given.study)()
    ground = ground_of(given)
    title = study_title(definition, ground)
    options = command_line.options_of(given)
    folder = options.runs / "studies"
    if given.show and given.storage is None and not (folder / f"{slug(title)}.journal").exists():
        raise UserError(f"study '{title}' was not started under {options.runs}: leave out --show to start it")
    check(definition, ground)
    files.check_writable(options.runs)
    config = ground.plan(definition.baselines()[0], 1, tuning=True).runs[0].config
    options, recipe = command_line.for_ranks(options, given, config.ranks), config.recipe
    search = Search(
        definition,
        title,
        {"suite": ground.suite.name, "profile": ground.profile, "pair": ground.pair, "set": list(ground.assignments)},
        folder,
        given.storage,
        given.trials,
        given.fresh,
        warmup_steps=recipe.milestones[0] if recipe.milestones else recipe.epochs,
    )
    try:
        if given.show:
            tables.leaderboard(search).show(console, "a wider terminal")
            console.print(tables.left_words(search))
            return 0
        with logs.kept(options.runs, "study", console) as log:
            code = run(given, arguments, search, ground, options, console)
            console.print(f"Log: {log}")
            return code
    finally:
        search.close()


def ground_of(given: argparse.Namespace) -> Ground:
    """Resolve the suite, pair and settings of a study. Raises UserError for an unknown suite or pair."""
    suite = load(given.suite)
    form_of(suite, given.profile)
    known = [pair.name for pair in suite.pairs]
    pair = given.pair or known[0]
    if ":" not in pair:
        raise UserError(f"--pair {pair}: write it as teacher:student{among(pair, known)}")
    return Ground(suite, given.profile, pair, tuple(given.assignments), command_line.resolve_device(given.device))


def study_title(definition: Study, ground: Ground) -> str:
    """The study's name in its storage and in MLflow."""
    profile = f" {ground.profile}" if ground.profile else ""
    return f"{definition.name} on {ground.suite.name}{profile} {ground.pair.replace(':', ' to ')}"


def check(definition: Study, ground: Ground) -> None:
    """Raise UserError, before anything is trained, when the suite refuses a point or a baseline of the study."""
    choices = [definition.suggest(FixedTrial(dict(point))) for point in definition.grid()]
    varied = {key for choice in choices for key in choice.settings}
    for assignment in ground.assignments:
        if (key := assignment.partition("=")[0]) in varied:
            raise UserError(f"--set {assignment}: study '{definition.name}' varies {key} itself")
    for choice in [*choices, *definition.baselines()]:
        ground.plan(choice, 1, tuning=True)


def run(
    given: argparse.Namespace,
    arguments: Sequence[str] | None,
    search: Search,
    ground: Ground,
    options: Options,
    console: Console,
) -> int:
    """Run trials until none is left, confirm the winner, and write tables and figures."""
    # a batch is trained by one process: more processes than batches would have nothing to do
    batches = -(-search.num_left() // search.definition.at_once)
    processes = 1 if given.join else max(1, min(options.workers, batches))
    if not given.join:
        console.print(describe(search, ground, options.workers), soft_wrap=True)
    plan = ground.plan(search.definition.baselines()[0], 1, tuning=True)
    data = datasets.load(plan.data, options.data_root, options.cache, not options.offline, render=True)
    tracker = tracking.Tracker(options.runs)
    how = Ended.DONE
    if processes > 1:
        how = watch(arguments, search, processes, options, console)
    search.remember(Chance(data.num_classes, len(splits(data, plan.data).val)))
    with progress.view(console, num_runs(search, ground, data, options, given.confirm, given.join)) as view:
        execution = StudyExecution(search.title, ground.suite.name, data, options, tracker, view)
        teacher = ground.pair.partition(":")[0]
        if execution.has_seen_everything(teacher) and not given.join:
            view.say(
                f"The weights of teacher {teacher} were imported: it has seen the validation images too, which flatters"
                " every trial; they are tagged teacher_saw_val."
            )
        if how is Ended.DONE and not work(search, ground, execution, given.timeout):
            how = execution.ended
        if given.join:
            return how
        confirmed = None
        if how is Ended.DONE and not search.num_left() and execution.can_start():
            measure_reference(search, ground, execution)
            if given.confirm and not execution.was_stopped and execution.can_start():
                confirmed = confirm(search, ground, execution, given.confirm)
        if how is Ended.DONE:
            how = execution.ended
    return conclude(search, confirmed, execution, how, console)


def describe(search: Search, ground: Ground, workers: int) -> str:
    """Describe the study: question, budget, split."""
    definition, points = search.definition, len(search.definition.grid())
    how = f"a grid of {points} points" if points else f"{search.num_trials} trials by {definition.sampler}"
    split = "the suite's validation split" if ground.holds_out else f"{VAL_FRACTION:.0%} of the training set"
    return (
        f"Study {search.title}\n{definition.question}\nPublished: {definition.published}\n"
        f"Ours: {how}, {definition.at_once} at once, {definition.seeds} seed{'s' if definition.seeds > 1 else ''} each,"
        f" ranked on {split}; {workers} worker{'s' if workers > 1 else ''}. {tables.left_words(search)}"
    )


def work(search: Search, ground: Ground, execution: StudyExecution, timeout: float | None) -> bool:
    """Ask for trials, train and tell them until none is left; False when stopped."""
    started = time.monotonic()
    while timeout is None or time.monotonic() - started < timeout:
        if search.num_left() and not execution.can_start():
            return False
        trials = search.ask()
        if not trials:
            return True
        try:
            if not TrialBatch(search, ground, trials).train(execution):
                return False
        except BaseException:  # interrupted between two trainings, a data set that cannot be read, ...
            search.retry([trial for trial, _ in trials])
            raise
    return True


def conclude(
    search: Search, confirmed: pd.DataFrame | None, execution: StudyExecution, how: Ended, console: Console
) -> int:
    """Print and write the results, log them to the study's MLflow run, and say where to look next.

    Out of time, only the trials are printed: what is drawn takes long, and the sitting that ends the study draws it.
    """
    if how is Ended.OUT_OF_TIME:
        tables.leaderboard(search).show(console, "python -m benchmark.study ... --show")
        console.print(tables.left_words(search))
        console.print(
            f"Out of time, and everything saved. The same command resumes: {process.command_line()}", soft_wrap=True
        )
        return how
    place = search.folder / slug(search.title)
    console.print()
    tables.leaderboard(search).show(console, str(place))
    if confirmed is not None and len(confirmed):
        tables.confirmation_table(search, confirmed).show(console, str(place))
    contents = tables.contents(search, confirmed)
    for name, content in contents.items():
        files.write(place / name, content)
    for name in tables.FIGURES:
        if f"{name}.png" not in contents:  # drawn by an earlier version, or of another grid
            for kind in ("png", "svg"):
                (place / f"{name}.{kind}").unlink(missing_ok=True)
    patiently(
        partial(tables.log, search, execution, contents),
        execution.tracker,
        execution.view.say,
        execution.options.patience_s,
    )
    for problem in execution.problems:
        console.print(f"failed: {problem}", style="red", soft_wrap=True)
    console.print(tables.left_words(search))
    console.print(f"Figures and tables: {place}", soft_wrap=True)
    console.print(f"Every run: {execution.tracker.where(execution.experiment)}", soft_wrap=True)
    console.print("The study in Optuna: `make dashboard`")
    if how is Ended.STOPPED:
        console.print(f"Stopped. The same command resumes: {process.command_line()}", soft_wrap=True)
        return how
    return 0 if not (search.num_left() or search.num_failed or execution.problems) else 1
