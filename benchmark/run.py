"""Train a suite and tabulate it: `python -m benchmark.run cub --methods kd,sdd_kd --seeds 3 --set sdd.beta=4`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmark import atomic, command_line, datasets, environment, progress, results, tracking
from benchmark.errors import UserError
from benchmark.estimate import Costs
from benchmark.execute import Execution, Options
from benchmark.suite import Plan, load, make_plan
from benchmark.table import Table, comparison


def parser() -> command_line.Parser:
    """Return the command's arguments."""
    made = command_line.Parser("python -m benchmark.run", description=__doc__)
    command_line.add_choices(made)
    command_line.add_places(made)
    command_line.add_device(made)
    made.add_argument("--dry-run", action="store_true", help="print the plan and its estimate; train nothing")
    made.add_argument("--retry-failed", action="store_true", help="train runs again whose loss was not finite")
    made.add_argument("--no-download", action="store_true", help="never fetch data that is missing")
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    plan = plan_of(given)
    device = command_line.resolve_device(given.device)
    options = Options(
        runs=given.runs.resolve(),
        data_root=given.data.resolve(),
        device=device,
        workers=given.workers or command_line.default_workers(device, given.threads),
        threads=given.threads,
        retry_failed=given.retry_failed,
    )
    download = not given.no_download and not given.dry_run
    execution = prepare(plan, options, None if given.dry_run else tracking.Tracker(options.runs), download)
    console.print(describe(execution))
    left = sum(entry.is_open for entry in [*execution.entries, *execution.teacher_entries.values()])
    if left:
        console.print("Measuring a few steps of every network ...", end=" ")
        console.print(
            f"about {progress.duration(execution.estimate_s())} on {environment.describe_device(torch.device(device))},"
            f" {options.workers} worker{'s' if options.workers > 1 else ''}",
        )
    if given.dry_run:
        console.print("Dry run: nothing was trained.")
        return 0
    if left:
        with progress.view(console, left) as view:
            execution.run(view)
    return conclude(execution, console)


def plan_of(given: command_line.Choices) -> Plan:
    """Resolve what the command line chose."""
    return make_plan(
        load(given.suite),
        profile=given.profile,
        methods=given.methods,
        pairs=given.pairs,
        seeds=given.seeds,
        assignments=given.assignments,
    )


def prepare(plan: Plan, options: Options, tracker: tracking.Tracker | None, download: bool) -> Execution:
    """Load a plan's images and find out what of it exists already."""
    data = datasets.load(plan.data, options.data_root, options.cache, download)
    costs = Costs(data, torch.device(options.device), options.threads)
    execution = Execution(plan, options, data, tracker or tracking.open_existing(options.runs), costs)
    execution.survey()
    return execution


def describe(execution: Execution) -> RichTable:
    """Return the plan as a person reads it: pairs, methods, and what is done, to resume and to train."""
    plan = execution.plan
    shown = RichTable(
        title=Text(f"Plan: {plan.name}, data {execution.data.name}"), title_justify="left", title_style="bold"
    )
    for header in ("pair", "teacher", "methods", "seeds", "epochs", "runs"):
        shown.add_column(header, overflow="fold")
    for pair in plan.pairs:
        entries = [
            e
            for e in execution.entries
            if e.config.student == pair.student and e.config.teacher in (None, pair.teacher)
        ]
        accuracy = execution.teacher_accuracy.get(pair.teacher)
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
            counts(execution, pair.name),
        )
    return shown


def counts(execution: Execution, pair: str | None = None) -> str:
    """Return how many runs of a pair (or of all) are in each state, in words."""
    words = {
        "finished": "finished",
        "failed": "failed",
        "resume": "to resume",
        "todo": "to train",
        "waiting": "to train",
        "elsewhere": "training elsewhere",
    }
    chosen = [
        entry
        for entry in execution.entries
        if pair is None
        or (entry.config.student == pair.partition(":")[2] and entry.config.teacher in (None, pair.partition(":")[0]))
    ]
    tally = Counter(words[entry.state] for entry in chosen)
    return ", ".join(f"{count} {word}" for word, count in tally.items())


def conclude(execution: Execution, console: Console) -> int:
    """Print and write the table, say what went wrong and where to look next; return the exit code."""
    table = table_of(execution)
    if not execution.was_stopped:
        console.print()
        console.print(table.to_rich())
    written = write_table(table, execution.options.runs, execution.plan.file_name)
    again = environment.command_line()
    for problem in execution.problems:
        console.print(f"failed: {problem}", style="red", soft_wrap=True)
    console.print(f"Runs: {counts(execution)}")
    console.print(f"Table: {', '.join(map(str, written))}", soft_wrap=True)
    console.print(f"Every run: {execution.where()}", soft_wrap=True)
    if execution.user_error is not None:
        raise UserError(f"{execution.user_error}; then go on with `{again}`")
    if execution.was_stopped:
        console.print(f"Stopped and saved. The same command goes on: {again}", soft_wrap=True)
        return 130
    return 1 if execution.problems else 0


def table_of(execution: Execution) -> Table:
    """Return the comparison table of a plan, of all that is finished so far."""
    signatures = {entry.signature for entry in execution.entries if entry.signature is not None}
    tracked = execution.tracker.runs_on(execution.data.digest) if execution.tracker is not None else []
    frame = results.frame(tracked, signatures)
    return comparison(execution.plan, frame, execution.teacher_accuracy, dataset_name=execution.data.name)


def write_table(table: Table, runs: Path, name: str) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX; return the files."""
    texts = {"md": table.to_markdown(), "csv": table.to_csv(), "tex": table.to_latex()}
    files = []
    for ending, text in texts.items():
        path = runs / "results" / f"{name}.{ending}"
        atomic.write(path, text.encode())
        files.append(path)
    return files


if __name__ == "__main__":
    command_line.run(main)
