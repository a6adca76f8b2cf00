"""Train a suite and tabulate it."""

from __future__ import annotations

import argparse
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from benchmark import command_line, datasets, files, logs, machine, process, results, tracking
from benchmark.analysis import measured
from benchmark.analysis.comparison import comparison
from benchmark.analysis.latex import latex
from benchmark.analysis.measured import MeasuredRun
from benchmark.analysis.summary import notes_of_rows, result_of
from benchmark.analysis.table import Table
from benchmark.commands import status
from benchmark.commands.status import Progress
from benchmark.errors import UserError
from benchmark.execution import order, progress
from benchmark.execution.deadline import SHORTEST_S, Deadline
from benchmark.execution.estimate import STORE_S, Costs, estimate_s, overhead_s, refuse_slow_bf16
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan.resolve import Plan, make_plan
from benchmark.plan.suite import load
from benchmark.train.ranks import LostContact

#: columns that a narrow terminal leaves out first
DISPENSABLE = ("added parameters", "ours − published", "measured best", "published", "best", "seeds", "measured last")
#: lines that say what a deadline leaves time for, or leaves to do
MAX_LINES = 20


@dataclass(frozen=True)
class Estimate:
    """How long a command was said to take, and since when."""

    seconds: float
    started: float

    def compared(self) -> str:
        """Say what was estimated and what it took."""
        took = progress.duration(time.monotonic() - self.started)
        return f"Estimated {progress.duration(self.seconds)}, took {took}."


def command(given: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    options = command_line.options_of(given)
    plan = plan_of(given, options.device)  # a mistake in the arguments writes nothing
    options = command_line.for_ranks(options, given, plan.suite.ranks)
    if given.dry_run:
        return run(given, plan, options, console)
    files.check_writable(options.runs)
    with logs.kept(options.runs, "run", console) as log:
        return run(given, plan, options, console, log)


def command_of_torchrun(given: argparse.Namespace, console: Console) -> int:
    """Run the command as one of the processes that torchrun started; the first one decides, reports and writes.

    Raises:
        UserError: when `--gpus` is another number, and for an engine with processes of its own.
    """
    from benchmark.execution import parallel  # with the loop, which no other command trains in its own process

    rank, size = process.launched() or (0, 1)
    if given.engine not in ("local", "inline"):
        raise UserError(f"--engine {given.engine}: it starts processes of its own; leave it out, or torchrun")
    if other := [one for one in given.assignments if one.startswith("ranks=") and one != f"ranks={size}"]:
        raise UserError(f"{other[0]}: torchrun started {size} processes; leave --gpus out")
    if rank > 0:
        options = command_line.options_of(given)
        try:
            parallel.follow(rank, size, options.data_root, options.cache)
        except LostContact:
            console.print(f"process {rank}: another one has ended, and says why")
            return 1
        return 0
    given.engine, given.workers = "inline", 1
    if size > 1:
        given.assignments = [*given.assignments, f"ranks={size}"]
    with parallel.first_of_launched(size):
        return command(given, console)


def run(given: argparse.Namespace, plan: Plan, options: Options, console: Console, log: Path | None = None) -> int:
    """Train what is left of a plan, or only show it; return the command's exit code."""
    of_project = measured.load(measured.path_of(plan.suite.name))  # damaged, it is refused before anything is trained
    survey = look(plan, options, is_read_only=given.dry_run)
    console.print(progress_of(survey).table())
    for refused in plan.refused:
        console.print(f"left out: {refused}", soft_wrap=True)
    for line in in_other_precision(survey):
        console.print(line, soft_wrap=True)
    if plan.suite.ranks > 1:
        console.print(shared(plan), soft_wrap=True)
    left = sum(entry.is_open for entry in [*survey.entries, *survey.teacher_entries.values()])
    costs = Costs(survey.data, torch.device(options.device), options.threads, plan.suite.precision)
    estimate = estimated(survey, costs, console) if left else None
    deadline = None if options.deadline is None else Deadline(options.deadline, options.imports_s)
    if deadline is not None and left:
        if not has_time(survey, deadline, console):
            return command_line.EXIT_DEADLINE
        show_outlook(survey, costs, deadline, console)
    if given.dry_run:
        console.print("Dry run: nothing was trained.")
        return 0
    tracker = survey.tracker = survey.tracker or tracking.Tracker(options.runs)
    if deadline is not None:
        deadline.rehearse(lambda: table_of(survey, tracker, of_project))
    with progress.view(console, left) as view, status.told(given) as tell:
        execution = Execution(
            survey, tracker, costs, view, deadline=deadline, on_look=lambda: tell(progress_of(survey))
        )
        execution.run()
    code = conclude(execution, given, console, estimate, log, of_project)
    remember(given, survey)
    return code


def shared(plan: Plan) -> str:
    """Say what several processes share, and which methods compare the images of a process's share only."""
    text = f"{plan.suite.ranks} processes train every network, each on an equal share of every minibatch"
    if coupled := {run.config.method: None for run in plan.runs if run.config.distiller().couples_batch}:
        text += f"; {', '.join(coupled)}: terms that compare images see those of one share"
    return f"{text}."


def has_time(survey: Survey, deadline: Deadline, console: Console) -> bool:
    """Whether there is time to train anything; where there is none, say so."""
    if deadline.train_s() - store_s(survey) > SHORTEST_S:
        return True
    needed_s = deadline.start_s + deadline.ending_s() + store_s(survey)
    console.print(
        f"The deadline leaves {progress.duration(max(0.0, deadline.left_s()))}; to start, save and end takes about"
        f" {progress.duration(needed_s)}: nothing was trained. Give it more time with --deadline."
    )
    return False


def show_outlook(survey: Survey, costs: Costs, deadline: Deadline, console: Console) -> None:
    """Print what the deadline leaves time for, in the order in which it is trained."""
    works, train_s = order.works_of(survey, costs), deadline.train_s() - store_s(survey)
    shares = order.forecast(works, survey.options.workers, train_s)
    console.print(f"Until the deadline there are {progress.duration(train_s)} to train in. Expected by then:")
    print_lines(order.outlook(works, shares), console)


def print_lines(lines: Sequence[str], console: Console) -> None:
    """Print the first of some lines, and how many there are."""
    for line in lines[:MAX_LINES]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > MAX_LINES:
        console.print(f"  ... and so on, {len(lines)} lines in all")


def store_s(survey: Survey) -> float:
    """Seconds until there is a tracking store."""
    return STORE_S if survey.tracker is None else 0.0


def estimated(survey: Survey, costs: Costs, console: Console) -> Estimate:
    """Measure a few steps of every network, and print how long what is left takes."""
    refuse_slow_bf16(survey)
    console.print("Measuring a few steps of every network ...")
    options, device = survey.options, torch.device(survey.options.device)
    training_s, other_s = estimate_s(survey, costs), overhead_s(survey)
    workers = f"{options.workers} worker{'s' if options.workers > 1 else ''}"
    console.print(
        f"About {progress.duration(training_s + other_s)}, teachers included, on {machine.describe_device(device)},"
        f" {workers}: training {progress.duration(training_s)}, start-up and tracking {progress.duration(other_s)}"
    )
    if (ranks := survey.plan.suite.ranks) > 1:
        console.print(
            f"That is for one process per student. {ranks} share its work, at best {ranks} times as fast, which was not"
            " measured.",
            soft_wrap=True,
        )
    if (images_per_s := costs.loader_images_per_s()) is not None:
        console.print(f"Images are streamed from files: at least {progress.rate(images_per_s)} on this machine.")
    return Estimate(training_s + other_s, time.monotonic())


def plan_of(given: command_line.Choices, device: str) -> Plan:
    """Resolve the plan that the command line chose, for a device."""
    return make_plan(
        load(given.suite),
        profile=given.profile,
        methods=given.methods,
        pairs=given.pairs,
        seeds=given.seeds,
        assignments=given.assignments,
        device=device,
    )


def look(plan: Plan, options: Options, is_read_only: bool) -> Survey:
    """Load a plan's images and find out which of its runs exist already.

    Nothing is written but missing images, downloaded or rendered, and caches; with `is_read_only` no missing images.
    """
    data = datasets.load(
        plan.data,
        options.data_root,
        options.cache,
        download=not (is_read_only or options.offline),
        render=not is_read_only,
    )
    survey = Survey(plan, options, data, tracking.open_existing(options.runs))
    survey.look()
    return survey


def progress_of(survey: Survey) -> Progress:
    """Describe the plan: pairs, methods, and the runs that are done, to resume, failed and to train."""
    plan = survey.plan
    rows = []
    for pair in plan.pairs:
        entries = [
            e for e in survey.entries if e.config.student == pair.student and e.config.teacher in (None, pair.teacher)
        ]
        accuracy = survey.teacher_accuracy.get(pair.teacher)
        epochs = sorted({entry.config.recipe.epochs for entry in entries})
        if accuracy is not None:
            teacher = f"stored, {accuracy:.2f}%"
        else:
            teacher = "to train" if pair.teacher in plan.teachers else "not needed"
        methods, numbers = " ".join(plan.methods), " ".join(map(str, epochs))
        rows.append((pair.name, teacher, methods, str(plan.seeds), numbers, counts(entries)))
    lines = []
    for entry in survey.entries:
        if entry.state == "failed":
            lines.append(f"failed: {entry.label}: {entry.reason}")
        elif entry.state == "resume" and entry.hold is None:
            lines.append(f"to resume {entry.place}: {entry.label}")
    lines += [f"left out: {refused}" for refused in plan.refused]
    lines.append(f"Runs: {counts(survey.entries)}")
    lines += in_other_precision(survey)
    return Progress(f"Plan: {plan.name}, data {survey.data.name}", tuple(rows), tuple(lines))


def in_other_precision(survey: Survey) -> list[str]:
    """Say how runs are counted that only another default precision of the teachers keeps from being finished."""
    if not survey.num_in_other_precision or not any(entry.is_open for entry in survey.entries):
        return []
    other, own, count = survey.other_precision, survey.plan.suite.teacher_precision, survey.num_in_other_precision
    return [
        f"At least {count} of the runs to train are finished with teachers in {other}; here they compute in {own}:"
        f" to count those, add --set teacher_precision={other}"
    ]


def remember(given: argparse.Namespace, survey: Survey) -> None:
    """Let `status` know a plan without looking again, unless others are at work on it."""
    everything = [*survey.entries, *survey.teacher_entries.values()]
    if not any(entry.state in ("elsewhere", "remote", "dropped") for entry in everything):
        status.remember(given, progress_of(survey), reads_folder=not survey.data.embedded)


def counts(entries: Iterable[Entry]) -> str:
    """Describe how many runs are in each state."""
    words = {
        "finished": "finished",
        "failed": "failed",
        "dropped": "dropped",
        "resume": "to resume",
        "new": "to train",
        "waiting": "to train",
        "elsewhere": "trained by another process",
        "remote": "trained on another machine",
    }
    tally = Counter(
        "in training" if entry.hold is not None and entry.is_open else words[entry.state] for entry in entries
    )
    return ", ".join(f"{count} {word}" for word, count in tally.items())


def conclude(
    execution: Execution,
    given: argparse.Namespace,
    console: Console,
    estimate: Estimate | None,
    log: Path | None,
    of_project: Sequence[MeasuredRun],
) -> int:
    """Print and write the table, report failures and where to look next; return the exit code."""
    survey, plan = execution.survey, execution.plan
    table = table_of(survey, execution.tracker, of_project)
    written = write_table(table, survey.options.runs, plan.file_name)
    full = shortest(written[0])
    if not execution.was_stopped:
        console.print()
        replace(table, notes=notes_of_rows(table, full)).show(console, full, DISPENSABLE)
        console.print()
    again = process.command_line()
    reasons = {entry.reason: entry.label for entry in survey.entries if entry.state == "failed"}
    for problem in execution.problems or [f"{label}: {reason}" for reason, label in reasons.items()]:
        console.print(f"failed: {problem}", style="red")
    console.print(f"Runs: {counts(survey.entries)}")
    if estimate is not None and not execution.was_stopped:
        console.print(estimate.compared())
    if execution.user_error is not None:
        raise UserError(f"{execution.user_error}; then resume with `{again}`")
    if log is not None:
        console.print(f"Log: {shortest(log)}")
    if not execution.was_stopped and (result := result_of(table)):
        console.print(f"Result: {result}", style="bold")
    console.print(f"Table: {', '.join(map(shortest, written))}")
    console.print(f"Every run: {execution.tracker.where(plan.experiment_name)}")
    if execution.is_out_of_time:
        console.print("Out of time, and everything saved. Left for the next sitting:")
        print_lines(
            order.grouped((one, one.place if one.progress else "not started") for one in execution.left()), console
        )
        console.print(f"The same command resumes: {again}", soft_wrap=True)
        return command_line.EXIT_DEADLINE
    if execution.was_stopped:
        console.print(f"Stopped and saved. The same command resumes: {again}", soft_wrap=True)
        return command_line.EXIT_STOPPED
    is_finished = all(entry.state == "finished" for entry in survey.entries)
    if is_finished:
        report = shlex.join(["python", "-m", "reports", *command_line.choices_of(given)])
        console.print(f"Next: the report, {report}", soft_wrap=True)
    else:
        retried = " --retry-failed" if reasons and "--retry-failed" not in again else ""
        console.print(f"Next: what is left, {again}{retried}", soft_wrap=True)
    return 0 if is_finished else 1


def shortest(path: Path) -> str:
    """A path as one would type it from here: relative when it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def table_of(survey: Survey, tracker: tracking.Tracker, of_project: Sequence[MeasuredRun]) -> Table:
    """Make the comparison table of a plan from the runs that are finished so far, beside those of the project."""
    signatures = {entry.signature for entry in survey.entries if entry.signature is not None}
    with tracker.named_errors():
        frame = results.frame(tracker.runs_with(signatures), signatures)
    chosen = measured.of_plan(of_project, survey.plan, survey.data.name, survey.data.digest)
    return comparison(survey.plan, frame, survey.teacher_accuracy, dataset_name=survey.data.name, measured=chosen)


def write_table(table: Table, runs: Path, name: str) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX; return the paths."""
    texts = {"md": table.to_markdown(), "csv": table.to_csv(), "tex": latex(table, name)}
    paths = {ending: runs / "results" / f"{name}.{ending}" for ending in texts}
    with files.locked(runs / "locks" / "results"):  # commands that end together write one table after the other
        for ending, text in texts.items():
            files.write(paths[ending], text.encode())
    return list(paths.values())
