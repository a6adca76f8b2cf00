"""The comparison table: a plan's results by pair and method, next to the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE, MISSING, gain_text, rounded, signed, spread, two_decimals
from benchmark.analysis.published import VANILLA, PublishedValue
from benchmark.analysis.table import OTHER_BUDGET, UNSURE, Cell, Column, Row, Section, Table, Value
from benchmark.config import RunConfig
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair

#: columns that `comparison` reads, one row per run; accuracies in percent
RUN_COLUMNS = (
    *("signature", "run_id", "status", "teacher", "student", "method", "repetition", "epochs"),
    *("last", "best_test", "best_val", "is_part"),
)


def comparison(
    plan: Plan, frame: pd.DataFrame, teacher_accuracy: Mapping[str, float], dataset_name: str | None = None
) -> Table:
    """Tabulate a plan's results by pair and method, next to the published ones.

    `frame` holds this plan's runs, one per row, with the columns `RUN_COLUMNS`, or nothing yet; `teacher_accuracy` our
    teachers' accuracies by model, in percent; `dataset_name` the name of the loaded images, e.g. `cub200[5 classes]`.
    """
    name = dataset_name or plan.data.name
    comparable = is_comparable(plan, name)
    runs = frame.reindex(columns=list(RUN_COLUMNS))
    methods = [VANILLA] * (VANILLA in plan.methods) + [method for method in plan.methods if method != VANILLA]
    by_pair = [(pair, [_line(plan, pair, method, runs) for method in methods]) for pair in plan.pairs]
    columns = [
        Column("Method", "left"),
        Column("last"),
        Column("best (selected on test)"),
        Column("gain in last [95%]"),
        Column("detectable"),
        Column("published"),
        Column("best − published" + ("" if comparable else " (not comparable)")),
        Column("seeds", "left"),
    ]
    has_published = any(line.published for _, lines in by_pair for line in lines)
    hidden = {_PUBLISHED} if not has_published else set()
    if plan.profile or not has_published:
        hidden.add(_DIFFERENCE)
    return Table(
        title=plan.suite.title + (f" — {plan.profile} profile: a small slice, not a result" if plan.profile else ""),
        subtitle=f"Suite {plan.name}, data set {name}, top-1 accuracy in percent.",
        columns=_shown(columns, hidden),
        sections=tuple(
            _section(plan, name, hidden, pair, lines, teacher_accuracy.get(pair.teacher)) for pair, lines in by_pair
        ),
        notes=tuple(_notes(plan, name, runs, [line for _, lines in by_pair for line in lines])),
    )


def is_comparable(plan: Plan, dataset_name: str) -> bool:
    """Whether these runs may be compared with published values: the unchanged suite on the whole data set it names."""
    return plan.profile is None and not plan.changes and _is_whole(plan) and dataset_name == plan.data.name


def _is_whole(plan: Plan) -> bool:
    return plan.data.num_train is None and plan.data.num_test is None


#: positions of cells in a row
_LAST, _PUBLISHED, _DIFFERENCE = 1, 5, 6

Shown = TypeVar("Shown", Column, Cell)


def _shown(items: Sequence[Shown], hidden: Set[int]) -> tuple[Shown, ...]:
    return tuple(item for place, item in enumerate(items) if place not in hidden)


@dataclass(frozen=True)
class _Line:
    """A method on a pair: its runs, and the base and the published value that they are compared with."""

    pair: Pair
    config: RunConfig
    #: one row per repetition, finished runs first
    runs: pd.DataFrame
    num_planned: int
    #: (epochs, views): an epoch of two views costs the student two forwards
    budget: tuple[int, int]
    #: the budget of most methods of the pair
    usual_budget: tuple[int, int]
    base: str | None
    gain: stats.PairedDifference | None
    base_run_ids: tuple[str, ...]
    published: PublishedValue | None

    @property
    def finished(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "FINISHED"]

    @property
    def is_complete(self) -> bool:
        return len(self.values("last")) == self.num_planned

    def values(self, column: str) -> list[float]:
        return self.finished[column].dropna().astype(float).tolist()

    def mean(self, column: str) -> float:
        return stats.mean_std(self.values(column))[0]

    def run_ids(self) -> tuple[str, ...]:
        return tuple(self.finished["run_id"])


def _line(plan: Plan, pair: Pair, method: str, frame: pd.DataFrame) -> _Line:
    config = _config(plan, pair, method)
    runs = _runs(frame, config)
    base = base_of(method)
    gain, base_run_ids = None, ()
    if base in plan.methods:
        of_base = _runs(frame, _config(plan, pair, base))
        gain = stats.paired_difference(_by_repetition(runs), _by_repetition(of_base))
        base_run_ids = tuple(of_base[of_base["status"] == "FINISHED"]["run_id"])
    budgets = Counter(_budget(_config(plan, pair, other)) for other in plan.methods)
    return _Line(
        pair=pair,
        config=config,
        runs=runs,
        num_planned=plan.seeds,
        budget=_budget(config),
        usual_budget=min(budgets, key=lambda budget: (-budgets[budget], budget)),
        base=base,
        gain=gain,
        base_run_ids=base_run_ids,
        published=published.lookup(_tables(plan, pair), pair.name, method),
    )


def _tables(plan: Plan, pair: Pair) -> Sequence[str]:
    return pair.tables or plan.suite.rebuilds


def _config(plan: Plan, pair: Pair, method: str) -> RunConfig:
    of_method = (run.config for run in plan.runs if run.config.student == pair.student and run.config.method == method)
    return next(config for config in of_method if config.teacher in (None, pair.teacher))


def _budget(config: RunConfig) -> tuple[int, int]:
    return config.recipe.epochs, len(config.distiller().views)


def _runs(frame: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    mine = (frame["student"] == config.student) & (frame["method"] == config.method)
    if config.teacher is not None:
        mine &= frame["teacher"] == config.teacher
    found = frame[mine]
    finished_first = found.assign(_open=found["status"] != "FINISHED").sort_values(["_open", "repetition"])
    return finished_first.drop_duplicates("repetition").drop(columns="_open")


def _by_repetition(runs: pd.DataFrame) -> pd.Series[float]:
    return runs[runs["status"] == "FINISHED"].set_index("repetition")["last"].astype(float)


def _section(
    plan: Plan,
    dataset: str,
    hidden: Set[int],
    pair: Pair,
    lines: Sequence[_Line],
    teacher_accuracy: float | None,
) -> Section:
    printed = published.lookup_teacher(_tables(plan, pair), pair.name)
    # compared as printed, so that equal values are all bold
    complete = {line.config.method: round(line.mean("last"), 2) for line in lines if line.is_complete}
    best = max(complete.values()) if len(complete) > 1 and plan.profile is None else None
    shared: dict[str, Value] = {
        "suite": plan.suite.name,
        "profile": plan.profile,
        "data": dataset,
        "pair": pair.name,
        "teacher": pair.teacher,
        "student": pair.student,
        "teacher_accuracy": rounded(teacher_accuracy),
        "teacher_published": printed.value if printed else None,
    }
    rows = []
    for line in lines:
        cells = _cells(line)
        if best is not None and complete.get(line.config.method) == best:
            cells[_LAST] = replace(cells[_LAST], bold=True)
        rows.append(Row(_shown(cells, hidden), {**shared, **_fields(line, is_comparable(plan, dataset))}))
    teacher = f"teacher {two_decimals(teacher_accuracy)}"
    if printed:
        teacher += f" (published {_published(printed)})"
    return Section(pair.name, teacher, tuple(rows))


def _cells(line: _Line) -> list[Cell]:
    ids, gain = line.run_ids(), line.gain
    title = title_of(line.config.method, alone="Student")
    if line.budget != line.usual_budget:
        title += " ({} × {}) {}".format(*line.budget, OTHER_BUDGET)
    best, value = line.values("best_test"), line.published
    difference = line.mean("best_test") - value.value if best and value else None
    return [
        Cell(title),
        Cell(spread(line.values("last")), ids),
        Cell(spread(best), ids),
        Cell(gain_text(gain) if gain else MISSING, ids + line.base_run_ids if gain else ()),
        Cell(two_decimals(gain.detectable if gain else None), ids if gain else ()),
        Cell(_published(value) if value else MISSING),
        Cell(signed(difference), ids if difference is not None else ()),
        Cell(_count(line), tuple(line.runs["run_id"])),
    ]


def _fields(line: _Line, comparable: bool) -> dict[str, Value]:
    fields: dict[str, Value] = {
        "method": line.config.method,
        "base": line.base,
        "epochs": line.budget[0],
        "num_views": line.budget[1],
        "num_planned": line.num_planned,
        "num_finished": len(line.finished),
        "num_failed": _num_failed(line),
    }
    for column in ("last", "best_test", "best_val"):
        mean, std = stats.mean_std(values) if (values := line.values(column)) else (None, None)
        fields |= {f"{column}_mean": rounded(mean), f"{column}_std": rounded(std)}
    gain, value = line.gain, line.published
    low, high = gain.interval if gain and gain.interval else (None, None)
    best = line.values("best_test")
    return fields | {
        "gain": rounded(gain.mean) if gain else None,
        "gain_low": rounded(low),
        "gain_high": rounded(high),
        "gain_num_seeds": gain.num_seeds if gain else 0,
        "gain_correlation": rounded(gain.correlation) if gain else None,
        "gain_detectable": rounded(gain.detectable) if gain else None,
        "published": value.value if value else None,
        "published_confidence": value.confidence if value else None,
        "published_table": value.table if value else None,
        "best_test_minus_published": (
            rounded(line.mean("best_test") - value.value) if comparable and best and value else None
        ),
        "run_ids": " ".join(line.run_ids()),
    }


def _teacher_rounding(plan: Plan) -> str:
    suite = plan.suite
    features = "features computed in bf16" if suite.teacher_precision == "bf16" else ""
    kept = f"outputs of the weak view rounded to {suite.teacher_cache}" if suite.teacher_cache != "none" else ""
    return ", ".join(filter(None, (features, kept)))


def _notes(plan: Plan, dataset: str, runs: pd.DataFrame, lines: Sequence[_Line]) -> list[str]:
    notes = []
    is_part = not _is_whole(plan) or bool(runs["is_part"].eq(True).any())
    values = [line.published for line in lines if line.published]
    if plan.profile:
        notes.append(f"{plan.profile} profile: a small slice, not a result; no difference to published values.")
    if plan.changes:
        notes.append(f"Changed from the suite: {', '.join(plan.changes)}; not comparable with published values.")
    elif not plan.profile and (is_part or values) and not is_comparable(plan, dataset):
        part = ", a part of the data set" if is_part else ""
        notes.append(f"Run on {dataset}{part}: not comparable with published values.")
    if rounding := _teacher_rounding(plan):
        notes.append(f"Teachers: {rounding}.")
    notes += [
        "last: after the last epoch, the headline; ±: standard deviation over seeds (n - 1). best: the best epoch,"
        " selected on the test set, as the literature reports.",
        "gain: difference in last to the base method (SD-X to X; for a method without a base, the student alone),"
        " paired over the seeds both have, with its 95% t interval; detectable: the true difference that this test"
        " finds with power 0.8 (two-sided, alpha 0.05).",
    ]
    if plan.profile is None:
        notes.append("Bold: the best last of a pair among methods with all their seeds.")
    if any(len(line.finished) < stats.MIN_SEEDS for line in lines):
        notes.append(FEW_SEEDS_NOTE)
    if any(line.budget != line.usual_budget for line in lines):
        usual = sorted({line.usual_budget for line in lines})
        most = " or ".join("{} × {}".format(*budget) for budget in usual)
        notes.append(f"{OTHER_BUDGET} unequal budget: (epochs × views per image), where most methods have {most}.")
    if any(value.confidence == "unsure" for value in values):
        notes.append(f"{UNSURE} published value of unsure confidence: second-hand, derived or partly legible.")
    for used in dict.fromkeys(value.table for value in values):
        table = published.load(used)
        notes.append(f"{used}: {table.title}; {table.source}. Selection: {table.selection}.")
        notes += [f"{used}: {note}" for note in table.notes]
    return notes


def _published(value: PublishedValue) -> str:
    return two_decimals(value.value) + (f" {UNSURE}" if value.confidence == "unsure" else "")


def _num_failed(line: _Line) -> int:
    return int((line.runs["status"] == "FAILED").sum())


def _count(line: _Line) -> str:
    failed = _num_failed(line)
    return f"{len(line.finished)}/{line.num_planned}" + (f", {failed} failed" if failed else "")
