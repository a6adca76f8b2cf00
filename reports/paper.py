"""Tables that a paper takes as they are: method x pair, one's own method beside published ones, hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.analysis import published, stats
from benchmark.analysis.gains import is_comparable
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import (
    FEW_SEEDS_NOTE_WITHOUT_INTERVALS,
    MISSING,
    UNSURE_NOTE,
    percent,
    rounded,
    spread,
    two_decimals,
)
from benchmark.analysis.published import PublishedTable
from benchmark.analysis.scores import scores
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.errors import UserError, among
from benchmark.plan.suite import Pair
from reports.base import Context, Listing
from reports.sections.comparison import in_order
from reports.sections.literature import printed_text, tables_of, unsure_mark

#: name on the command line, and value
Setting = tuple[str, str]


def tables(context: Context, own: Sequence[str] = ()) -> Iterator[Listing]:
    """Yield the tables; `own` names methods that are set beside every published table with a pair of theirs.

    Raises:
        UserError: for a method of `own` that is not of the plan or has no finished run.
    """
    if any(scores(context.frame, p, m).values for p in context.plan.pairs for m in context.plan.methods):
        yield Listing("compact", compact(context))
    yield Listing("hyperparameters", hyperparameters(context))
    for method in own:
        yield from _beside_published(context, method)


def compact(context: Context) -> Table:
    """Tabulate `last` by method (rows) and pair (columns)."""
    plan, frame = context.plan, context.frame
    confidence = context.gains[0].decision.confidence if context.gains else stats.CONFIDENCE
    teachers = [context.teachers.get(pair.teacher) for pair in plan.pairs]
    rows = [Row.of("Teacher", *(two_decimals(one.test_top1 if one else None) for one in teachers), method="teacher")]
    for method in in_order(plan):
        cells = [Cell(title_of(method, alone="Student"))]
        fields: dict[str, Value] = {"method": method}
        for pair in plan.pairs:
            found, leader = scores(frame, pair, method), context.leaders[pair.name]
            is_best = leader is not None and leader.is_bold(method)
            cells.append(Cell(spread(found.values), found.run_ids, bold=is_best))
            fields |= {f"{pair.name} mean": rounded(found.mean), f"{pair.name} std": rounded(found.std)}
        rows.append(Row(tuple(cells), fields))
    subtitle = (
        f"Top-1 accuracy (%) on {context.dataset} after the last epoch, mean ± standard deviation over"
        f" {plan.seeds} seed{'s' * (plan.seeds > 1)}. Bold: above every other complete method by paired intervals"
        f" ({percent(confidence)} each)."
    )
    columns = [Column("Method", "left"), *(Column(pair.name) for pair in plan.pairs)]
    title = plan.suite.title + (f" — {plan.profile} profile: a small slice, not a result" if plan.profile else "")
    few = any(0 < len(scores(frame, p, m).values) < stats.MIN_SEEDS for p in plan.pairs for m in plan.methods)
    notes = [FEW_SEEDS_NOTE_WITHOUT_INTERVALS] if few else []
    if plan.changes:
        notes.append(f"Changed from the suite: {', '.join(plan.changes)}.")
    return Table.of_rows(title, subtitle, columns, rows, tuple(notes))


def _beside_published(context: Context, method: str) -> Iterator[Listing]:
    plan = context.plan
    if plan.profile:
        raise UserError(f"--row {method}: the {plan.profile} profile is a small slice, not a result to publish")
    if method not in plan.methods:
        raise UserError(
            f"--row {method}: not a method of this plan{among(method, plan.methods)}; --methods adds one that the suite"
            " lacks"
        )
    held = [pair for pair in plan.pairs if scores(context.frame, pair, method, "best_test").values]
    names = [name for name in tables_of(plan) if any(pair.name in published.load(name).pairs for pair in held)]
    if not names:
        raise UserError(
            f"--row {method}: no finished run on a pair of a published table; this trains it:"
            f" {context.command('--methods', method)}"
        )
    for name in names:
        table = published.load(name)
        yield Listing(f"row-{method}-{name.replace('/', '-')}", _with_row(context, table, method, held))


def _with_row(context: Context, table: PublishedTable, method: str, held: Sequence[Pair]) -> Table:
    """A published table with our own method under it."""
    of_pair, planned = ({pair.name: pair for pair in pairs} for pairs in (held, context.plan.pairs))
    printed = [
        Row.of(
            title_of(other, alone="Student") + unsure_mark(table, other),
            *(printed_text(table, pair, other).partition(" (")[0] for pair in table.pairs),
            method=other,
        )
        for other in table.rows
        if other != method
    ]
    ours, of_project = [], []
    for column, words in (("best_test", "best epoch on test"), ("last", "last epoch")):
        cells, fields = [Cell(f"{title_of(method)} (ours, {words})")], dict[str, Value](method=method, selection=column)
        others = [Cell(f"{title_of(method)} (measured, {words})")]
        for name in table.pairs:
            pair = of_pair.get(name)
            found = scores(context.frame, pair, method, column) if pair else None
            cells.append(Cell(spread(found.values), found.run_ids) if found else Cell(MISSING))
            fields[f"{name} mean"] = rounded(found.mean) if found else None
            others.append(Cell(context.measured.text(planned[name], method, column) if name in planned else MISSING))
        ours.append(Row(tuple(cells), fields))
        if context.measured:
            of_project.append(Row(tuple(others), {}))
    subtitle = (
        f"Published rows: {table.source} ({published.WORDS[table.epoch]}). Ours: mean ± standard deviation over"
        f" seeds{_teachers_of(context, held)}."
    )
    if context.measured:
        subtitle += " Measured: the same by the project."
    columns = (Column("Method", "left"), *(Column(name) for name in table.pairs))
    parts = [printed, of_project, ours] if of_project else [printed, ours]
    sections = tuple(Section("", "", tuple(part)) for part in parts)
    return Table(table.title, subtitle, columns, sections, tuple(_notes_of_row(context, table, method, held)))


def _teachers_of(context: Context, held: Sequence[Pair]) -> str:
    """Say where the weights of these pairs' teachers are from, as far as they are stored here."""
    origins = {
        "our own" if context.teachers[pair.teacher].origin == "trained" else "imported"
        for pair in held
        if pair.teacher in context.teachers
    }
    return f", under teachers that are {' or '.join(sorted(origins))}" if origins else ""


def _notes_of_row(context: Context, table: PublishedTable, method: str, held: Sequence[Pair]) -> Iterator[str]:
    """What a reader must know to compare our row with those above it."""
    plan = context.plan
    if not is_comparable(plan, context.dataset):
        changed = f", with {', '.join(plan.changes)}" if plan.changes else ""
        yield f"Ours is on {context.dataset}{changed}: not comparable with the published rows."
    if table.last_epoch:
        yield f"Of the last epoch: {', '.join(map(title_of, table.last_epoch))}."
    if any(0 < len(scores(context.frame, pair, method).values) < stats.MIN_SEEDS for pair in held):
        yield FEW_SEEDS_NOTE_WITHOUT_INTERVALS
    if table.confidence == "unsure" or table.unsure:
        yield UNSURE_NOTE
    yield from table.notes


def hyperparameters(context: Context) -> Table:
    """Tabulate recipe and hyperparameters: what all runs share once, then what each method has of its own.

    One line for pairs that share them.
    """
    by_method = {method: _by_pair(context, method) for method in in_order(context.plan)}
    every = [settings for of_pair in by_method.values() for settings in of_pair.values()]
    decoupled = [settings for settings in every if any(name.startswith("sdd.") for name, _ in settings)]
    shared = _in_all(every)
    shared_decoupled = [one for one in _in_all(decoupled) if one not in shared]
    rows = [_settings_row("All methods", "all", shared)] if shared else []
    if len(decoupled) > 1 and shared_decoupled:
        rows.append(_settings_row("All SD- forms", "all", shared_decoupled))
    told = {*shared, *shared_decoupled} if len(decoupled) > 1 else set(shared)
    for method, of_pair in by_method.items():
        groups: dict[tuple[Setting, ...], list[str]] = {}
        for pair, settings in of_pair.items():
            groups.setdefault(tuple(one for one in settings if one not in told), []).append(pair)
        for own, pairs in groups.items():
            where = "all" if len(pairs) == len(of_pair) else ", ".join(pairs)
            rows.append(_settings_row(title_of(method, alone="Student"), where, own))
    columns = (Column("Method", "left"), Column("pairs", "left"), Column("settings", "left"))
    subtitle = f"SGD with step decay; names are those of the command line; convention: {context.plan.suite.convention}."
    return Table.of_rows(f"Hyperparameters, {context.plan.suite.title}", subtitle, columns, rows)


def _by_pair(context: Context, method: str) -> dict[str, tuple[Setting, ...]]:
    """The settings of a method by pair, where it can run."""
    found = {}
    for pair in context.plan.pairs:
        configs = (run.config for run in context.plan.runs if run.config.student == pair.student)
        of_method = (one for one in configs if one.method == method and one.teacher in (None, pair.teacher))
        config = next(of_method, None)
        if config is None:
            continue
        recipe = config.recipe.model_dump(mode="json")
        groups: Mapping[str, Mapping[str, Any]] = {**config.parameters, "recipe": recipe}
        found[pair.name] = tuple(
            (f"{group}.{name}", _text(value)) for group, values in groups.items() for name, value in values.items()
        )
    return found


def _in_all(settings: Sequence[tuple[Setting, ...]]) -> list[Setting]:
    return [one for one in settings[0] if all(one in other for other in settings)] if settings else []


def _settings_row(title: str, pairs: str, settings: Sequence[Setting]) -> Row:
    text = ", ".join(f"{name} {value}" for name, value in settings) or MISSING
    return Row.of(title, pairs, text, method=title, pairs=pairs, settings=text)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "{" + ", ".join(map(_text, value)) + "}"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
