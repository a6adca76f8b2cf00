"""Rebuild a suite's tables and figures as a PDF from tracked runs."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence

from rich.console import Console

from benchmark import command_line, files, tracking
from benchmark.plan.resolve import Plan, make_plan
from benchmark.plan.suite import load
from reports import build
from reports.base import Context
from reports.compare import compared
from reports.gather import gather
from reports.publish import publish
from reports.write import log, write


def command(given: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    chosen = build.chosen_sections(given.sections)
    runs, out = given.runs.resolve(), (given.out or given.runs / "reports").resolve()
    if not given.publish:
        files.check_writable(out, "name another folder for the report with --out")
    tracker = tracking.open_existing(runs)

    def context_of(suite: str, plans: Sequence[Plan] = ()) -> Context:
        return gather(
            plans or plans_of(given, suite),
            tracker,
            runs,
            given.data.resolve(),
            server=given.server or (tracker.uri if tracker is not None and not tracker.is_local else None),
            arguments=command_line.settings_of(given, suite),
        )

    if given.publish:
        return published([context_of(given.suite, [plan]) for plan in plans_of(given, given.suite)], console)
    if given.compare:
        a, b = given.compare
        report = compared(a, b, given.suite, context_of)
        path = write(report, out)
        unlogged = None
    else:
        context = context_of(given.suite)
        report = build.make(context, chosen, given.row)
        path = write(report, out)
        unlogged = log(context, path)
    for problem in [*report.problems, *([unlogged] if unlogged else [])]:
        console.print(f"note: {problem}", soft_wrap=True)
    for fault in report.faults:
        console.print(f"failed: {fault}", style="red", soft_wrap=True)
    console.print(f"{report.subtitle}.", soft_wrap=True)
    console.print(f"Tables, figures and cells.csv: {out / report.slug}", soft_wrap=True)
    console.print(f"Report: {path}, {path.with_suffix('.html')}", soft_wrap=True)
    if given.open:
        webbrowser.open(path.as_uri())
    return 1 if report.faults else 0


def published(contexts: Sequence[Context], console: Console) -> int:
    """Publish the runs of a plan, and print what that changed; return the exit code."""
    done = publish(contexts)
    problems = dict.fromkeys(problem for one in contexts if len(one.frame) for problem in one.problems)
    for warning in [*problems, *done.warnings]:
        console.print(f"note: {warning}", soft_wrap=True)
    for words, those in (("added", done.added), ("in place of a failed run", done.replaced)):
        for run in those:
            figure = f"last {run.last!r}" if run.is_finished else f"failed: {run.failure or 'no reason was recorded'}"
            console.print(f"{words}: {run.label}: {figure}", soft_wrap=True)
    console.print(
        f"{len(done.added)} runs added, {len(done.replaced)} in place of failed ones, {done.num_known} were there."
    )
    console.print(f"To commit: {done.path}", soft_wrap=True)
    return 0


def plans_of(given: command_line.Choices, suite: str) -> list[Plan]:
    """Resolve the plan that the command line chose, once for every device that its runs may have had."""
    chosen = load(suite)
    either = [chosen]
    if chosen.teacher_precision is None:  # resolved by the device that trained, which need not be this one
        either = [chosen.model_copy(update={"teacher_precision": precision}) for precision in ("fp32", "bf16")]
    return [
        make_plan(
            one,
            profile=given.profile,
            methods=given.methods,
            pairs=given.pairs,
            seeds=given.seeds,
            assignments=given.assignments,
        )
        for one in either
    ]
