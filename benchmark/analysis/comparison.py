"""The comparison table: a plan's results by pair and method, next to the measured and the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.decision import Decision, confidence_text, interval_note
from benchmark.analysis.gains import Best, Gain, gains, is_comparable, is_whole, leaders
from benchmark.analysis.measured import Measured
from benchmark.analysis.methods import base_of, title_of
from benchmark.analysis.numbers import (
    FEW_SEEDS_NOTE,
    MISSING,
    UNSURE_NOTE,
    rounded,
    signed,
    spread,
    two_decimals,
)
from benchmark.analysis.published import VANILLA, PublishedValue
from benchmark.analysis.table import MORE_PARAMETERS, OTHER_BUDGET, UNSURE, Cell, Column, Row, Section, Table, Value
from benchmark.config import RunConfig
from benchmark.plan.fit import Fit, fit_of
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair

#: columns that `comparison` reads, one row per run; accuracies in percent
RUN_COLUMNS = (
    *("signature", "run_id", "status", "teacher", "student", "method", "repetition", "epochs"),
    *("last", "best_test", "best_val", "is_part", "machine", "teacher_checksum"),
)


def comparison(
    plan: Plan,
    frame: pd.DataFrame,
    teacher_accuracy: Mapping[str, float],
    dataset_name: str | None = None,
    without: Set[str] = frozenset(),
    measured: Measured | None = None,
) -> Table:
    """Tabulate a plan's results by pair and method, next to the measured and the published ones.

    `frame` holds this plan's runs, one per row, with the columns `RUN_COLUMNS`, or nothing yet; `teacher_accuracy` our
    teachers' accuracies by model, in percent; `dataset_name` the name of the loaded images, e.g. `cub200[5 classes]`;
    `without` names columns to leave out: gain, outcome, published, difference. `measured` holds the runs that the
    project measured under the plan's settings.
    """
    name = dataset_name or plan.data.name
    comparable = is_comparable(plan, name)
    runs = frame.reindex(columns=list(RUN_COLUMNS))
    methods = [VANILLA] * (VANILLA in plan.methods) + [method for method in plan.methods if method != VANILLA]
    every_gain = gains(plan, runs, name)
    decided = {(one.comparison.pair.name, one.comparison.method): one for one in every_gain}
    refused = {(one.pair, one.method) for one in plan.refused}
    by_pair = [
        (
            pair,
            [
                _line(plan, pair, method, runs, decided.get((pair.name, method)), measured)
                for method in methods
                if (pair.name, method) not in refused
            ],
        )
        for pair in plan.pairs
    ]
    lines = [line for _, of_pair in by_pair for line in of_pair]
    decisions = [one.decision for one in every_gain]
    columns = {
        "method": Column("Method", "left"),
        "last": Column("last"),
        "best_val": Column("best on validation"),
        "best_test": Column("best (selected on test)"),
        "gain": Column(f"gain in last [{confidence_text(decisions)}]"),
        "outcome": Column("outcome", "left"),
        "measured_last": Column("measured last"),
        "measured_best": Column("measured best"),
        "published": Column("published"),
        "difference": Column("ours − published" + ("" if comparable else " (not comparable)")),
        "parameters": Column("added parameters"),
        "seeds": Column("seeds", "left"),
    }
    has_published = any(line.published for line in lines)
    hidden = {*without, *(() if has_published else ("published", "difference", "measured_best"))}
    hidden |= set() if measured else {"measured_last", "measured_best"}
    hidden |= set() if plan.data.val_fraction else {"best_val"}
    hidden |= {"difference"} if plan.profile else set()
    hidden |= set() if any(line.fit.num_trained or line.fit.num_tested for line in lines) else {"parameters"}
    shown = {key: column for key, column in columns.items() if key not in hidden}
    best = leaders(plan, runs, every_gain)
    sections = [
        _section(plan, name, tuple(shown), pair, of_pair, teacher_accuracy.get(pair.teacher), best[pair.name])
        for pair, of_pair in by_pair
    ]
    return Table(
        title=plan.suite.title + (f" — {plan.profile} profile: a small slice, not a result" if plan.profile else ""),
        subtitle=f"Suite {plan.name}, data set {name}, top-1 accuracy in percent.",
        columns=tuple(shown.values()),
        sections=tuple(sections),
        notes=tuple(_notes(plan, name, runs, lines, decisions if "gain" in shown else None, measured)),
    )


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
    gain: Gain | None
    published: PublishedValue | None
    #: None where the project measured nothing under the settings of the plan
    measured: Measured | None
    #: parameters that the method adds to the student
    fit: Fit

    @property
    def finished(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "FINISHED"]

    def values(self, column: str) -> list[float]:
        return self.finished[column].dropna().astype(float).tolist()

    def mean(self, column: str) -> float:
        return stats.mean_std(self.values(column))[0]

    @property
    def minus_published(self) -> float | None:
        """Our mean by the published choice of the epoch, minus the published value."""
        if self.published is None or not self.values(column := published.COLUMNS[self.published.epoch]):
            return None
        return self.mean(column) - self.published.value

    def run_ids(self) -> tuple[str, ...]:
        return tuple(self.finished["run_id"])


def _line(
    plan: Plan, pair: Pair, method: str, frame: pd.DataFrame, gain: Gain | None, measured: Measured | None
) -> _Line:
    config = _config(plan, pair, method)
    refused = {one.method for one in plan.refused if one.pair == pair.name}
    budgets = Counter(_budget(_config(plan, pair, other)) for other in plan.methods if other not in refused)
    return _Line(
        pair=pair,
        config=config,
        runs=_runs(frame, config),
        num_planned=plan.seeds,
        budget=_budget(config),
        usual_budget=min(budgets, key=lambda budget: (-budgets[budget], budget)),
        base=base_of(method),
        gain=gain if gain and gain.decision.difference else None,
        published=published.lookup(plan.suite.tables_of(pair), pair.name, method),
        measured=measured or None,
        fit=fit_of(config),
    )


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


def _section(
    plan: Plan,
    dataset: str,
    shown: Sequence[str],
    pair: Pair,
    lines: Sequence[_Line],
    teacher_accuracy: float | None,
    leader: Best | None,
) -> Section:
    printed = published.lookup_teacher(plan.suite.tables_of(pair), pair.name)
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
        if leader is not None and leader.is_bold(line.config.method):
            cells["last"] = replace(cells["last"], bold=True)
        fields = {**shared, **_fields(line, is_comparable(plan, dataset))}
        rows.append(Row(tuple(cells[key] for key in shown), fields))
    for refused in (one for one in plan.refused if one.pair == pair.name):
        named = {"method": Cell(title_of(refused.method)), "seeds": Cell("cannot run")}
        none = dict.fromkeys(("num_planned", "num_finished", "num_failed"), 0)
        fields = {**shared, "method": refused.method, **none, "cannot_run": refused.reason}
        rows.append(Row(tuple(named.get(key, Cell(MISSING)) for key in shown), fields))
    teacher = f"teacher {two_decimals(teacher_accuracy)}"
    if printed:
        teacher += f" (published {_published(printed)})"
    return Section(pair.name, teacher, tuple(rows))


def _cells(line: _Line) -> dict[str, Cell]:
    ids, gain = line.run_ids(), line.gain
    title = title_of(line.config.method, alone="Student")
    if line.budget != line.usual_budget:
        title += " ({} × {}) {}".format(*line.budget, OTHER_BUDGET)
    if line.fit.num_tested:
        title += f" {MORE_PARAMETERS}"
    difference = line.minus_published
    return {
        "method": Cell(title),
        "last": Cell(spread(line.values("last")), ids),
        "best_val": Cell(spread(line.values("best_val")), ids),
        "best_test": Cell(spread(line.values("best_test")), ids),
        "gain": Cell(gain.decision.text, gain.run_ids) if gain else Cell(MISSING),
        "outcome": Cell(gain.decision.outcome_text, gain.run_ids) if gain else Cell(MISSING),
        "measured_last": Cell(_measured_text(line, "last")),
        "measured_best": Cell(_measured_text(line, "best_test")),
        "published": Cell(_published(line.published) if line.published else MISSING),
        "difference": Cell(signed(difference), ids if difference is not None else ()),
        "parameters": Cell(_parameters(line.fit)),
        "seeds": Cell(_count(line), tuple(line.runs["run_id"])),
    }


def _parameters(fit: Fit) -> str:
    """Parameters that a method adds at training, and those it adds at testing where there are any, e.g. `0.13 M`."""
    counts = [count for count in (fit.num_trained, fit.num_tested) if count]
    found = [f"{count / 1e6:.2f} M" if count >= 10_000 else f"{count:,}" for count in counts]
    return " / ".join(found) or MISSING


def _fields(line: _Line, comparable: bool) -> dict[str, Value]:
    fields: dict[str, Value] = {
        "method": line.config.method,
        "base": line.base,
        "epochs": line.budget[0],
        "num_views": line.budget[1],
        "num_parameters_trained_beside": line.fit.num_trained,
        "num_parameters_tested_beside": line.fit.num_tested,
        "num_planned": line.num_planned,
        "num_finished": len(line.finished),
        "num_failed": _num_failed(line),
    }
    for column in ("last", "best_test", "best_val"):
        mean, std = stats.mean_std(values) if (values := line.values(column)) else (None, None)
        fields |= {f"{column}_mean": rounded(mean), f"{column}_std": rounded(std)}
    if line.measured is not None:
        fields |= _measured_fields(line, line.measured)
    decision, value = line.gain.decision if line.gain else None, line.published
    gain = decision.difference if decision else None
    low, high = decision.interval if decision and decision.interval else (None, None)
    return fields | {
        "gain": rounded(gain.mean) if gain else None,
        "gain_low": rounded(low),
        "gain_high": rounded(high),
        "gain_confidence": decision.confidence if decision else None,
        "gain_outcome": decision.word if decision else None,
        "gain_num_seeds": gain.num_seeds if gain else 0,
        "gain_correlation": rounded(gain.correlation) if gain else None,
        "gain_detectable": rounded(decision.detectable) if decision else None,
        "gain_decided_by_seeds": decision.seeds if decision else None,
        "published": value.value if value else None,
        "published_confidence": value.confidence if value else None,
        "published_table": value.table if value else None,
        "published_epoch": value.epoch if value else None,
        "minus_published": rounded(line.minus_published) if comparable else None,
        "run_ids": " ".join(line.run_ids()),
    }


def _measured_text(line: _Line, column: str) -> str:
    return MISSING if line.measured is None else line.measured.text(line.pair, line.config.method, column)


def _measured_fields(line: _Line, measured: Measured) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    for column in ("last", "best_test"):
        found = measured.scores(line.pair, line.config.method, column)
        fields |= {f"measured_{column}_mean": rounded(found.mean), f"measured_{column}_std": rounded(found.std)}
        fields["measured_num_seeds"] = len(found.values)
    return fields


def _teacher_rounding(plan: Plan) -> str:
    suite = plan.suite
    features = "features computed in bf16" if suite.teacher_precision == "bf16" else ""
    kept = f"outputs of the weak view rounded to {suite.teacher_cache}" if suite.teacher_cache != "none" else ""
    return ", ".join(filter(None, (features, kept)))


def _notes(
    plan: Plan,
    dataset: str,
    runs: pd.DataFrame,
    lines: Sequence[_Line],
    decisions: Sequence[Decision] | None,
    measured: Measured | None,
) -> list[str]:
    """Notes under the table; `decisions` are those of the gains that it shows, None when it shows none."""
    notes = []
    is_part = not is_whole(plan) or bool(runs["is_part"].eq(True).any())
    values = [line.published for line in lines if line.published]
    if plan.profile:
        notes.append(f"{plan.profile} profile: a small slice, not a result; no difference to published values.")
    if plan.changes:
        notes.append(f"Changed from the suite: {', '.join(plan.changes)}; not comparable with published values.")
    elif not plan.profile and (is_part or values) and not is_comparable(plan, dataset):
        part = ", a part of the data set" if is_part else ""
        notes.append(f"Run on {dataset}{part}: not comparable with published values.")
    machines = runs.loc[runs["status"] == "FINISHED", "machine"].dropna().unique()
    if len(machines) > 1:
        notes.append(
            f"Runs of {len(machines)} kinds of machine, {'; '.join(sorted(map(str, machines)))}: the same run may"
            " come out differently on another one."
        )
    if rounding := _teacher_rounding(plan):
        notes.append(f"Teachers: {rounding}.")
    notes += [
        "last: after the last epoch, the headline; ±: standard deviation over seeds (n - 1). best: the best epoch,"
        " selected on the test set, as the literature reports.",
    ]
    if decisions is not None:
        notes += [
            "gain: difference in last to the base method (SD-X to X; for a method without a base, the student alone),"
            f" paired over the seeds both have. {interval_note(decisions)}",
            "outcome: holds where the interval lies above 0; does not hold where it lies below 0, or includes 0 and"
            " lies below the published gain; else open, with the seeds that would decide it in 8 of 10 repeats if the"
            " measured difference and spread are the true ones.",
        ]
    if plan.profile is None:
        notes.append("Bold: the best last of a pair, where its lead over every other complete method excludes 0 too.")
    if any(len(line.finished) < stats.MIN_SEEDS for line in lines):
        notes.append(FEW_SEEDS_NOTE)
    if any(line.budget != line.usual_budget for line in lines):
        usual = sorted({line.usual_budget for line in lines})
        most = " or ".join("{} × {}".format(*budget) for budget in usual)
        notes.append(f"{OTHER_BUDGET} unequal budget: (epochs × views per image), where most methods have {most}.")
    if any(line.fit.num_tested for line in lines):
        notes.append(
            f"{MORE_PARAMETERS} tested with more than the student's own parameters. Added parameters: those trained"
            " beside the student, and after the slash those it is tested with."
        )
    notes += [f"{title_of(one.method)} cannot run on {one.pair}: {one.reason}." for one in plan.refused]
    if any(value.confidence == "unsure" for value in values):
        notes.append(UNSURE_NOTE)
    if measured is not None:
        notes += measured.notes(runs)
    if values and any(value.epoch == "last" for value in values):
        notes.append("ours − published: of our last epoch where the source prints the last, else of our best.")
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
