"""Train a suite and tabulate it: `python -m benchmark.run cub --methods kd,sdd_kd --seeds 3 --set sdd.beta=4`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmark import command_line, datasets, files, logs, machine, results, tracking
from benchmark.analysis.comparison import comparison
from benchmark.analysis.latex import latex
from benchmark.analysis.table import Table
from benchmark.errors import UserError
from benchmark.execution import progress
from benchmark.execution.estimate import Costs, estimate_s, refuse_slow_bf16
from benchmark.execution.execute import Execution
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan.resolve import Plan, make_plan
from benchmark.plan.suite import load


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.run", description=__doc__)
    command_line.add_choices(made)
    command_line.add_places(made)
    command_line.add_device(made)
    command_line.add_cache_limit(made)
    made.add_argument("--dry-run", action="store_true", help="print the plan and its estimate; train nothing")
    made.add_argument("--retry-failed", action="store_true", help="retry runs whose loss was not finite")
    made.add_argument("--no-download", action="store_true", help="never download missing data")
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    options = command_line.options_of(given)
    plan = plan_of(given, options.device)  # a mistake in the arguments writes nothing
    if given.dry_run:
        return run(given, plan, options, console)
    files.check_writable(options.runs)
    with logs.kept(options.runs, "run", console):
        return run(given, plan, options, console)


def run(given: argparse.Namespace, plan: Plan, options: Options, console: Console) -> int:
    """Train what is left of a plan, or only show it; return the command's exit code."""
    survey = look(plan, options, download=not given.no_download and not given.dry_run)
    console.print(describe(survey))
    left = sum(entry.is_open for entry in [*survey.entries, *survey.teacher_entries.values()])
    costs = Costs(survey.data, torch.device(options.device), options.threads, plan.suite.precision)
    if left:
        refuse_slow_bf16(survey)
        console.print("Measuring a few steps of every network ...", end=" ")
        console.print(
            f"about {progress.duration(estimate_s(survey, costs))} on"
            f" {machine.describe_device(torch.device(options.device))}, {options.workers}"
            f" worker{'s' if options.workers > 1 else ''}"
        )
        if (rate := costs.loader_images_per_s()) is not None:
            console.print(f"Images are streamed from files: at least {rate:,.0f} images/s on this machine.")
    if given.dry_run:
        console.print("Dry run: nothing was trained.")
        return 0
    tracker = survey.tracker = survey.tracker or tracking.Tracker(options.runs)
    with progress.view(console, left) as view:
        execution = Execution(survey, tracker, costs, view)
        execution.run()
    return conclude(execution, console)


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


def look(plan: Plan, options: Options, download: bool) -> Survey:
    """Load a plan's images and find out which of its runs exist already; write nothing but downloads and caches."""
    data = datasets.load(plan.data, options.data_root, options.cache, download)
    survey = Survey(plan, options, data, tracking.open_existing(options.runs))
    survey.look()
    return survey


def describe(survey: Survey) -> RichTable:
    """Tabulate the plan for the terminal: pairs, methods, and the runs that are done, to resume and to train."""
    plan = survey.plan
    shown = RichTable(
        title=Text(f"Plan: {plan.name}, data {survey.data.name}"), title_justify="left", title_style="bold"
    )
    for header in ("pair", "teacher", "methods", "seeds", "epochs", "runs"):
        shown.add_column(header, overflow="fold")
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
        shown.add_row(
            pair.name,
            teacher,
            " ".join(plan.methods),
            str(plan.seeds),
            " ".join(map(str, epochs)),
            counts(entries),
        )
    return shown


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
    tally = Counter(words[entry.state] for entry in entries)
    return ", ".join(f"{count} {word}" for word, count in tally.items())


def conclude(execution: Execution, console: Console) -> int:
    """Print and write the table, report failures and where to look next; return the exit code."""
    survey, plan = execution.survey, execution.plan
    table = table_of(survey, execution.tracker)
    if not execution.was_stopped:
        console.print()
        console.print(table.to_rich())
    written = write_table(table, survey.options.runs, plan.file_name)
    again = machine.command_line()
    reasons = {entry.reason: entry.label for entry in survey.entries if entry.state == "failed"}
    for problem in execution.problems or [f"{label}: {reason}" for reason, label in reasons.items()]:
        console.print(f"failed: {problem}", style="red", soft_wrap=True)
    if reasons:
        console.print("Failed runs are skipped; retry them with --retry-failed.")
    console.print(f"Runs: {counts(survey.entries)}")
    console.print(f"Table: {', '.join(map(str, written))}", soft_wrap=True)
    console.print(f"Every run: {where(execution.tracker, plan.experiment_name)}", soft_wrap=True)
    if execution.user_error is not None:
        raise UserError(f"{execution.user_error}; then resume with `{again}`")
    if execution.was_stopped:
        console.print(f"Stopped and saved. The same command resumes: {again}", soft_wrap=True)
        return 130
    return 0 if all(entry.state == "finished" for entry in survey.entries) else 1


def where(tracker: tracking.Tracker, name: str) -> str:
    """Say where the runs of an experiment can be browsed."""
    experiment = tracker.experiments().get(name)
    if experiment is None:
        return "none is tracked yet"
    address = tracker.ui_address(experiment)
    return f"`make ui`, then {address}" if tracker.is_local else address


def table_of(survey: Survey, tracker: tracking.Tracker) -> Table:
    """Make the comparison table of a plan from the runs that are finished so far."""
    signatures = {entry.signature for entry in survey.entries if entry.signature is not None}
    with tracker.named_errors():
        frame = results.frame(tracker.runs_with(signatures), signatures)
    return comparison(survey.plan, frame, survey.teacher_accuracy, dataset_name=survey.data.name)


def write_table(table: Table, runs: Path, name: str) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX; return the paths."""
    texts = {"md": table.to_markdown(), "csv": table.to_csv(), "tex": latex(table, name)}
    paths = {ending: runs / "results" / f"{name}.{ending}" for ending in texts}
    with files.locked(runs / "locks" / "results"):  # commands that end together write one table after the other
        for ending, text in texts.items():
            files.write(paths[ending], text.encode())
    return list(paths.values())


if __name__ == "__main__":
    command_line.run(main)
