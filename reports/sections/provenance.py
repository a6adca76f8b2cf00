"""Provenance of the numbers: suite, data, code, machines, teachers, and missing runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from benchmark.analysis import published
from benchmark.analysis.numbers import MISSING, two_decimals
from benchmark.analysis.table import Cell, Column, Row, Table
from benchmark.tracking import Tracked
from benchmark.train.teacher_store import Manifest
from reports.base import Block, Context, Listing, Text, section
from reports.sections.coverage import TrackedState, states
from reports.sections.literature import tables_of

_NO_SPLIT = "none: trained on the full training set, so there is no best_val"


@section("Where the numbers come from")
def provenance(context: Context) -> Sequence[Block]:
    """Provenance, teachers and problems."""
    blocks: list[Block] = [Text(_summary(context)), Listing("provenance", _provenance(context))]
    if context.plan.teachers:
        blocks.append(Listing("teachers", _teachers(context)))
    if context.problems:
        blocks.append(Listing("problems", _problems(context)))
    return blocks


def _summary(context: Context) -> str:
    count = dict.fromkeys(TrackedState, 0)
    for one in states(context):
        count[one.state] += 1
    done = count.pop(TrackedState.DONE)
    open_ones = [f"{number} {state.value}" for state, number in count.items() if number]
    left = f"Missing: {', '.join(open_ones)}." if open_ones else "Nothing is missing."
    is_small = f" This is the {context.plan.profile} profile: a small slice, not a result." * bool(context.plan.profile)
    return (
        f"{done} of {done + sum(count.values())} planned runs are finished. {left}{is_small} The conclusions hold"
        " for these teachers, this data set and this recipe."
    )


def _provenance(context: Context) -> Table:
    plan, frame = context.plan, context.frame
    changed = frame["git_dirty"].astype(str).str.lower().eq("true")
    mine = set(frame["run_id"])
    versions = _versions(run for run in context.tracked if run.run_id in mine)
    configs = [run.config for run in plan.runs]
    precisions = sorted({f"students {c.precision}, teachers {c.teacher_precision}" for c in configs if c.teacher})
    held_out = f"{100 * plan.data.val_fraction:g}% of the training set"
    split = held_out if plan.data.val_fraction else _NO_SPLIT
    facts: dict[str, tuple[str, tuple[str, ...]]] = {
        "Suite": (f"{plan.name}: {plan.suite.title}", ()),
        "Rebuilds": (", ".join(tables_of(plan)) or "no published table", ()),
        "Changed from the suite": (", ".join(plan.changes) or "nothing", ()),
        "Data": (context.dataset, ()),
        "Data digest": (context.data_digest or "not known", ()),
        "Validation split": (split, ()),
        "Pairs": (", ".join(pair.name for pair in plan.pairs), ()),
        "Methods": (", ".join(plan.methods), ()),
        "Seeds planned": (f"1 to {plan.seeds}" if plan.seeds > 1 else "1", ()),
        "Epochs": (", ".join(map(str, sorted({one.recipe.epochs for one in configs}))), ()),
        "Convention": (plan.suite.convention, ()),
        "Precision": (", ".join(precisions) or plan.suite.precision, ()),
        "Code of the runs": _counted(frame, "git_commit", 12),
        "From changed checkouts": (f"{int(changed.sum())} of {len(frame)} runs", tuple(frame.loc[changed, "run_id"])),
        "Devices": _counted(frame, "device"),
        "Machines": _machines(frame),
        "Training time": (_hours(frame), tuple(frame["run_id"])),
        "Measured by the project": (_measured(context), ()),
        "Versions": (", ".join(versions) or MISSING, ()),
    }
    rows = [Row.of(name, Cell(text, ids), fact=name, value=text) for name, (text, ids) in facts.items()]
    return Table.of_rows("What was run.", "Of the runs of this plan.", (Column("", "left"), Column("", "left")), rows)


def _versions(tracked: Iterable[Tracked]) -> list[str]:
    """List the packages of the runs by name, with every version that a run had."""
    versions: dict[str, set[str]] = {}
    for run in tracked:
        for package, version in run.versions.items():
            versions.setdefault(package, set()).add(version)
    return [f"{name} {'/'.join(sorted(found))}" for name, found in sorted(versions.items())]


def _counted(frame: pd.DataFrame, column: str, length: int | None = None) -> tuple[str, tuple[str, ...]]:
    counts = frame[column].dropna().astype(str).value_counts(sort=False).sort_index()
    words = [f"{str(value)[:length]} ({count} run{'s' if count > 1 else ''})" for value, count in counts.items()]
    return ", ".join(words) or MISSING, tuple(frame["run_id"])


def _machines(frame: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """What the numbers depend on beside settings and packages, with a warning where runs of one plan differ in it."""
    if "machine" not in frame:
        return MISSING, ()
    text, run_ids = _counted(frame, "machine")
    mixed = frame.loc[frame["status"] == "FINISHED", "machine"].fillna("not recorded").nunique() > 1
    return text + ("; mixed: not equal to the last digit" if mixed else ""), run_ids


def _measured(context: Context) -> str:
    measured = context.measured
    return f"{measured.summary()}; {measured.place}" if measured else "nothing under these settings yet"


def _hours(frame: pd.DataFrame) -> str:
    timed = frame.dropna(subset="train_seconds")
    by_device = timed.groupby(timed["device"].fillna("unknown device"))["train_seconds"].sum()
    words = [
        f"{seconds / 3600:.1f} hours on {device}" if seconds >= 3600 else f"{seconds / 60:.1f} minutes on {device}"
        for device, seconds in by_device.items()
    ]
    untimed = int((frame["status"] == "FINISHED").sum()) - len(timed)
    if untimed > 0:
        words.append(f"{untimed} finished runs without a time")
    return ", ".join(words) or MISSING


def _teachers(context: Context) -> Table:
    rows = []
    for model in context.plan.teachers:
        manifest = context.teachers.get(model)
        pairs = [pair for pair in context.plan.pairs if pair.teacher == model]
        tables = [(pair, context.plan.suite.tables_of(pair)) for pair in pairs]
        printed = next(filter(None, (published.lookup_teacher(ids, pair.name) for pair, ids in tables)), None)
        origin = [MISSING] * 3
        if manifest is not None:
            commit = manifest.git_commit[:8] + (" (changed)" if manifest.git_dirty else "")
            origin = [manifest.origin, commit, manifest.checksum[:16]]
        row = Row.of(
            model,
            teacher_cell(manifest),
            two_decimals(manifest.best_test_top1 if manifest else None),
            two_decimals(printed.value if printed else None),
            *origin,
            model=model,
            test_top1=manifest.test_top1 if manifest else None,
            best_test_top1=manifest.best_test_top1 if manifest else None,
            published=printed.value if printed else None,
            origin=manifest.origin if manifest else None,
            checksum=manifest.checksum if manifest else None,
        )
        rows.append(row)
    columns = (
        Column("Teacher", "left"),
        *map(Column, ("top-1", "best epoch", "published")),
        *(Column(name, "left") for name in ("origin", "commit", "checksum")),
    )
    notes = ["top-1: of the stored weights on the test set, in percent; these weights taught every student here."]
    if len(context.teachers) < len(context.plan.teachers):
        notes.append(f"{MISSING}: this runs folder holds no such teacher; the first run of the suite trains it.")
    return Table.of_rows("Teachers.", f"On {context.dataset}.", columns, rows, notes)


def teacher_cell(manifest: Manifest | None) -> Cell:
    """Make the cell of a stored teacher's accuracy, with the run that trained it."""
    if manifest is None:
        return Cell(MISSING)
    return Cell(two_decimals(manifest.test_top1), (manifest.mlflow_run,) if manifest.mlflow_run else ())


def _problems(context: Context) -> Table:
    rows = [
        Row.of(str(number), problem, number=number, problem=problem)
        for number, problem in enumerate(context.problems, start=1)
    ]
    columns = (Column("", "right"), Column("Problem", "left"))
    return Table.of_rows("Problems.", "What could not be read or does not fit.", columns, rows)
