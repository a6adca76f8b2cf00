"""Pack a runs folder into a bundle, and merge bundles into one."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from rich.console import Console
from rich.table import Table as RichTable

from benchmark import catalogue, command_line, datasets, files, machine, tracking
from benchmark.bundles import content, merge, pack
from benchmark.bundles.content import RunRecord
from benchmark.bundles.pieces import MEGABYTE
from benchmark.commands import train
from benchmark.errors import one_line
from benchmark.execution.survey import Survey

#: lines about single runs that are printed; the rest is counted
_LISTED = 20


def pack_runs(given: argparse.Namespace, console: Console) -> int:
    """Pack runs, teachers and open checkpoints, and print what is in the bundle and how it is merged."""
    options = command_line.options_of(given)
    tracker = tracking.open_existing(options.runs)
    if given.suite is None:
        choice = pack.everything(options, tracker)
    else:
        plan = train.plan_of(given, options.device)
        data = datasets.load(plan.data, options.data_root, options.cache)
        choice = pack.of_plan(Survey(plan, options, data, tracker))
    if given.fp16:
        machine.set_numerics(torch.device(options.device), options.threads)
    limit = given.piece_mb * MEGABYTE
    packed = pack.pack(given.to, options, tracker, choice, limit=limit, with_students=given.weights, fp16=given.fp16)
    kinds = Counter(kind for kind, _, _ in packed.rows)
    shown = RichTable(
        "packed", "number", "size", title=f"Bundle, weights in {packed.contents.weights}", title_justify="left"
    )
    for kind, count in kinds.items():
        shown.add_row(f"{kind}s", str(count), size(sum(bytes for one, _, bytes in packed.rows if one == kind)))
    console.print(shown)
    _print_lines(packed.notes, console)
    _print_lines(_grouped("left out", packed.left_out), console)
    total = sum(path.stat().st_size for path in packed.pieces)
    names = [train.shortest(path.absolute()) for path in packed.pieces]
    listed = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    console.print(f"Pieces: {listed}, {len(names)} of {size(total)} in all", soft_wrap=True)
    merging = f"python -m benchmark merge {shlex.quote(train.shortest(given.to.absolute()))}.*"
    console.print(f"Next: carry them to another machine; there, {merging}", soft_wrap=True)
    return 0


def merge_bundles(given: argparse.Namespace, console: Console) -> int:
    """Check bundles whole, take what is missing here, and print what became of everything in them."""
    options = command_line.options_of(given)
    with contextlib.ExitStack() as stack:
        bundles = [stack.enter_context(contextlib.closing(content.opened(whole))) for whole in given.bundles]
        files.check_writable(options.runs)
        outcomes = merge.merge(bundles, options, tracking.Tracker(options.runs))
        shown = RichTable("in the bundles", "taken", "here already", "left out")
        for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
            fates = Counter(outcome.fate for outcome in outcomes if outcome.kind == kind)
            shown.add_row(f"{kind}s", *(str(fates[fate]) for fate in ("taken", "here already", "left out")))
        console.print(shown)
        for fate in ("here already", "left out"):
            reasons = [(one.reason, one.label) for one in outcomes if one.fate == fate and one.reason]
            _print_lines(_grouped(fate, reasons), console)
        records = [record for bundle in bundles for record in bundle.runs.values()]
        started = {record.tags.get("command", "") for record in records if record.status == "KILLED"}
        for command in sorted(filter(None, started)):
            console.print(f"Open runs were started by: {one_line(command)}", soft_wrap=True)
        console.print(f"Next: {next_command(records, given)}", soft_wrap=True)
    return 1 if any(outcome.is_held for outcome in outcomes) else 0


def next_command(records: Iterable[RunRecord], given: argparse.Namespace) -> str:
    """The command that goes on with what came in: it trains what is open, or shows what is there."""
    open_first = sorted(records, key=lambda record: record.status != "KILLED")
    suites = [record for record in open_first if record.experiment_tags.get("suite") in catalogue.suites()]
    places = command_line.places_of(given)
    if not suites:
        return shlex.join(["python", "-m", "benchmark", "ui", *places])
    first = suites[0]
    command = ["benchmark.run"] if first.status == "KILLED" else ["benchmark", "status"]
    profile = first.experiment_tags.get("profile", "full")
    chosen = [first.experiment_tags["suite"], *([] if profile == "full" else ["--profile", profile])]
    return shlex.join(["python", "-m", *command, *chosen, *places])


def size(num_bytes: int) -> str:
    """A size as the pieces count it: `1.2 MB` is 1.2 million bytes."""
    return f"{num_bytes / MEGABYTE:,.1f} MB" if num_bytes >= MEGABYTE / 10 else f"{num_bytes / 1000:,.1f} kB"


def _grouped(fate: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
    """A line per run that was left out; a line per reason when there are many."""
    if len(reasons) <= _LISTED:
        return [f"{fate}: {label}: {reason}" for reason, label in reasons]
    return [f"{fate}: {count} for this: {reason}" for reason, count in Counter(one for one, _ in reasons).items()]


def _print_lines(lines: Sequence[str], console: Console) -> None:
    for line in lines[:_LISTED]:
        console.print(line, soft_wrap=True)
    if len(lines) > _LISTED:
        console.print(f"... and {len(lines) - _LISTED} more")
