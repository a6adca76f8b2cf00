"""Compare two suites, or two git commits of one suite, side by side: one table, method x pair."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from benchmark import catalogue
from benchmark.analysis import stats
from benchmark.analysis.decision import Decision, Question, confidence_text, decide, interval_note
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import MISSING, signed, unmarked_spread
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table
from benchmark.errors import UserError, among
from benchmark.tracking import Tracked, flat
from reports.base import Context, Listing, Text
from reports.build import Report, checkout, linker, newest
from reports.document import Part
from reports.gather import readable

#: (teacher, student, method); the teacher is "" where there is none
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, its results by key, and the tracked runs that they are of."""

    name: str
    about: str
    #: finished runs: one row per repetition
    runs: Mapping[Key, pd.DataFrame]
    tracked: Sequence[Tracked]
    problems: tuple[str, ...]

    @property
    def teachers(self) -> dict[str, set[str]]:
        """Checksums of the weights of every teacher that the runs have, by the teacher's name."""
        found: dict[str, set[str]] = {}
        for (teacher, *_), runs in self.runs.items():
            if teacher:
                found.setdefault(teacher, set()).update(runs["teacher_checksum"].dropna())
        return found


def compared(a: str, b: str, suite_name: str, context_of: Callable[[str], Context]) -> Report:
    """Make the report of two suites (names or .yaml files) or of two commits of `suite_name`.

    Raises:
        UserError: when a name is neither a suite nor a commit that has runs.
    """
    if _is_suite(a) and _is_suite(b):
        context, other = context_of(a), context_of(b)
        sides = [_suite_side(one) for one in (context, other)]
        paired = context.data_digest == other.data_digest != ""
        title = f"{sides[0].name} and {sides[1].name}"
    else:
        context = context_of(suite_name)
        sides = [_commit_side(context, name) for name in (a, b)]
        paired = True
        title = f"{context.plan.name}: commits {sides[0].name} and {sides[1].name}"
    tracked = [run for side in sides for run in side.tracked]
    table = _table(sides[0], sides[1], paired)
    text = Text(f"A is {sides[0].about}. B is {sides[1].about}.")
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", f"compare-{sides[0].name}-{sides[1].name}")
    return Report(
        slug=slug,
        title=title,
        subtitle=f"{sum(len(part.rows) for part in table.sections)} pairs and methods side by side",
        head=title,
        commit=f"report made at {checkout()}",
        parts=(Part("compare", "Side by side", [text, Listing("compare", table)]),),
        for_papers=(),
        empty=(),
        link=linker(replace(context, tracked=tracked)),
        timestamp=newest(tracked),
        problems=tuple(dict.fromkeys(problem for side in sides for problem in side.problems)),
        faults=(),
    )


def _is_suite(name: str) -> bool:
    return name in catalogue.suites() or (name.endswith((".yaml", ".yml")) and Path(name).exists())


def _suite_side(context: Context) -> Side:
    frame = context.frame
    about = f"suite {context.plan.name} on {context.dataset}, {len(frame)} runs"
    return Side(context.plan.slug, about, _by_key(frame), context.tracked, context.problems)


def _commit_side(context: Context, commit: str) -> Side:
    """Collect the suite's runs that were trained at a commit, with the plan's settings as far as both record them.

    Signatures of another version may differ for the same settings, so parameters decide here.
    """
    of_suite = f"tags.suite = '{context.plan.suite.name}'"
    tracker, known = context.tracker, list[str]()
    if tracker is not None:
        with tracker.named_errors():
            known = sorted(
                tracker.values("git_commit", query=f"tags.data_digest = '{context.data_digest}' and {of_suite}")
            )
    fits = [full for full in known if full.startswith(commit)] if len(commit) >= 4 else []
    if len(fits) > 1:
        raise UserError(f"--compare {commit}: {len(fits)} commits begin so: {', '.join(full[:12] for full in fits)}")
    mine: list[Tracked] = []
    if tracker is not None and fits:
        with tracker.named_errors():
            found = tracker.runs_on(context.data_digest, f"{of_suite} and tags.git_commit = '{fits[0]}'")
        mine = [run for run in readable(found, []) if "study" not in run.tags]
    if not mine:
        raise UserError(
            f"--compare {commit}: neither a suite nor a commit with runs of {context.plan.name}"
            f"{among(commit, [*catalogue.suites(), *(full[:12] for full in known)])}"
        )
    settings: dict[tuple[Key, int], Mapping[str, object]] = {}
    for planned in context.plan.runs:
        config = planned.config
        settings[(config.teacher or "", config.student, config.method), config.repetition] = flat(
            config.model_dump(mode="json")
        )
    rows = [
        _row(run)
        for run in mine
        if run.status == "FINISHED" and _agrees(run, settings.get((_key(run), int(run.tags["seed"]))))
    ]
    frame = _under_one_teacher(pd.DataFrame(rows, columns=_COLUMNS))
    about = f"commit {fits[0][:12]}, {len(frame)} runs of {context.plan.name}"
    return Side(fits[0][:12], about, _by_key(frame), mine, ())


_COLUMNS = ["teacher", "student", "method", "repetition", "status", "run_id", "last", "teacher_checksum"]


def _under_one_teacher(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs under the weights of each teacher that most of them have, and those without a teacher."""
    most = {
        teacher: runs["teacher_checksum"].value_counts().index[0]
        for teacher, runs in frame.groupby("teacher")
        if runs["teacher_checksum"].notna().any()
    }
    wanted = frame["teacher"].map(most)
    return frame[wanted.isna() | (frame["teacher_checksum"] == wanted)]


def _key(run: Tracked) -> Key:
    return run.tags.get("teacher", ""), run.tags["student"], run.tags["method"]


def _agrees(run: Tracked, settings: Mapping[str, object] | None) -> bool:
    return settings is not None and all(
        run.params[name] == str(value) for name, value in settings.items() if name in run.params
    )


def _row(run: Tracked) -> tuple[object, ...]:
    last, checksum = run.metrics.get("final/last", math.nan), run.tags.get("teacher_checksum")
    return *_key(run), int(run.tags["seed"]), run.status, run.run_id, last, checksum


def _by_key(frame: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    done = frame[(frame["status"] == "FINISHED") & frame["last"].notna()]
    teacher = done["teacher"].where(done["teacher"].notna(), "")
    found: dict[Key, pd.DataFrame] = {}
    for key, group in done.groupby([teacher, done["student"], done["method"]], sort=False):
        of, student, method = map(str, key)
        found[of, student, method] = group.drop_duplicates("repetition").sort_values("repetition")
    return found


def _table(a: Side, b: Side, paired: bool) -> Table:
    keys = sorted({*a.runs, *b.runs})
    pairs = list(dict.fromkeys(key[:2] for key in keys))
    decisions: dict[Key, Decision] = {}
    if paired:  # decided together: all rows are one family
        asked = [Question(stats.paired_difference(_accuracies(b, key), _accuracies(a, key))) for key in keys]
        decisions = dict(zip(keys, decide(asked), strict=True))
    sections = tuple(
        Section(
            f"{teacher}:{student}" if teacher else f"{student} alone",
            "",
            tuple(_row_of(a, b, key, decisions.get(key)) for key in keys if key[:2] == (teacher, student)),
        )
        for teacher, student in pairs
    )
    made = list(decisions.values())
    how = (
        f"paired over the seeds that both have. {interval_note(made)}"
        if paired
        else "of means, on different images: without an interval."
    )
    header = f"B − A [{confidence_text(made)}]" if paired else "B − A"
    others = [name for name, weights in a.teachers.items() if name in b.teachers and weights != b.teachers[name]]
    columns = (Column("Method", "left"), Column("A"), Column("n"), Column("B"), Column("n"), Column(header))
    notes = (
        f"A: {a.about}. B: {b.about}.",
        "Mean ± standard deviation of the accuracy after the last epoch.",
        f"Difference: {how}",
        *(
            f"A and B were taught by different weights of {name}: differences are also the teachers'."
            for name in others
        ),
        f"{FEW_SEEDS} fewer than {stats.MIN_SEEDS} shared seeds. {MISSING} no finished run.",
    )
    return Table("Side by side.", "Top-1 accuracy on the test set in percent.", columns, sections, notes)


def _accuracies(side: Side, key: Key) -> pd.Series[float]:
    runs = side.runs.get(key)
    return pd.Series(dtype=float) if runs is None else runs.set_index("repetition")["last"].astype(float)


def _row_of(a: Side, b: Side, key: Key, decision: Decision | None) -> Row:
    cells, ids, values = [Cell(title_of(key[2], alone="Student"))], list[tuple[str, ...]](), []
    for side in (a, b):
        accuracies, runs = _accuracies(side, key), side.runs.get(key)
        values.append(accuracies)
        ids.append(() if runs is None else tuple(runs["run_id"]))
        cells += [Cell(unmarked_spread(accuracies.tolist()), ids[-1]), Cell(str(len(accuracies)))]
    text, difference = _difference(values[0], values[1], decision)
    cells.append(Cell(text, ids[0] + ids[1] if difference is not None else ()))
    means = [accuracies.mean() if len(accuracies) else None for accuracies in values]
    return Row.of(
        *cells,
        teacher=key[0],
        student=key[1],
        method=key[2],
        a=means[0],
        n_a=len(values[0]),
        b=means[1],
        n_b=len(values[1]),
        difference=difference,
    )


def _difference(a: pd.Series[float], b: pd.Series[float], decision: Decision | None) -> tuple[str, float | None]:
    if not len(a) or not len(b):
        return MISSING, None
    if decision is None:
        mean = float(b.mean() - a.mean())
        return signed(mean), mean
    if decision.difference is None:
        return f"{MISSING} (no shared seed)", None
    return decision.text, decision.difference.mean
