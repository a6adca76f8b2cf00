"""The done, failed and missing runs of the plan, and the command that fills each gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from benchmark.analysis.methods import title_of
from benchmark.analysis.table import Cell, Column, Row, Table, Value
from benchmark.plan.resolve import PlannedRun
from benchmark.plan.suite import Pair
from reports.base import Block, Command, Context, Listing, Text, section

#: a longer list of failures is cut: all of them are in `python -m benchmark status`
_MAX_FAILURES = 60


class TrackedState(Enum):
    """The state of a planned run according to MLflow, unlike `survey.State`, which reads files too."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running or interrupted"
    MISSING = "missing"


#: by MLflow's status
_STATE_OF = {
    "FINISHED": TrackedState.DONE,
    "FAILED": TrackedState.FAILED,
    "KILLED": TrackedState.RUNNING,
    "RUNNING": TrackedState.RUNNING,
}
#: states, flags of the command that trains such runs, and the sentence above it
_OPEN: tuple[tuple[set[TrackedState], list[str], str], ...] = (
    (
        {TrackedState.MISSING, TrackedState.RUNNING},
        [],
        "{count} {runs} not finished. This trains them; finished runs are not trained again, interrupted ones resume:",
    ),
    (
        {TrackedState.FAILED},
        ["--retry-failed"],
        "{count} {runs} failed, with a loss that was not finite or with an error: see the reason. This tries again:",
    ),
)


@dataclass(frozen=True)
class Standing:
    """A planned run and its state."""

    run: PlannedRun
    state: TrackedState
    run_id: str | None = None
    reason: str = ""

    def is_of(self, pair: Pair, method: str) -> bool:
        """Whether the run counts for this pair and method: a run without a teacher counts for every pair."""
        config = self.run.config
        return (config.student, config.method) == (pair.student, method) and config.teacher in (None, pair.teacher)


def states(context: Context) -> list[Standing]:
    """Find the state of every planned run."""
    known = {row.signature: row for row in context.frame.itertuples()}
    found = []
    for run, signature in context.planned:
        row = known.get(signature)
        if row is None:
            found.append(Standing(run, TrackedState.MISSING))
            continue
        reason = row.failure if isinstance(row.failure, str) else ""
        found.append(Standing(run, _STATE_OF[str(row.status)], str(row.run_id), reason))
    return found


@section("Coverage")
def coverage(context: Context) -> Sequence[Block]:
    """Planned, done, failed and missing runs by pair and method."""
    standing = states(context)
    blocks: list[Block] = [Listing("coverage", _table(context, standing))]
    blocks += open_runs(context) or [Text("Every planned run is finished.")]
    failed = [one for one in standing if one.state is TrackedState.FAILED]
    if failed:
        blocks.append(Listing("failures", _failures(failed)))
    return blocks


def _table(context: Context, standing: Sequence[Standing]) -> Table:
    rows = []
    for pair in context.plan.pairs:
        for methods in _alike(context, standing, pair):
            mine = [one for one in standing if any(one.is_of(pair, method) for method in methods)]
            counts = [sum(one.state is state for one in mine) for state in TrackedState]
            ids = tuple(one.run_id for one in mine if one.run_id is not None)
            is_all = len(methods) == len(context.plan.methods)
            named = f"all {len(methods)}" if is_all and len(methods) > 1 else ", ".join(map(title_of, methods))
            cells = (Cell(pair.name), Cell(named), Cell(str(len(mine))), *(Cell(str(count), ids) for count in counts))
            fields: dict[str, Value] = {"pair": pair.name, "methods": " ".join(methods), "planned": len(mine)}
            fields |= {state.name.lower(): count for state, count in zip(TrackedState, counts, strict=True)}
            rows.append(Row(cells, fields))
    return Table.of_rows(
        "Planned and done.",
        "Methods of a pair with the same counts share a line; a student alone is one run for all pairs it is in.",
        (
            *(Column("Pair", "left"), Column("Methods", "left"), Column("planned")),
            *(Column(state.value) for state in TrackedState),
        ),
        rows,
    )


def _alike(context: Context, standing: Sequence[Standing], pair: Pair) -> list[list[str]]:
    """Group the methods of a pair by how many of their runs are in each state."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for method in context.plan.methods:
        mine = [one.state for one in standing if one.is_of(pair, method)]
        groups.setdefault(tuple(map(mine.count, TrackedState)), []).append(method)
    return list(groups.values())


def open_runs(context: Context) -> list[Command]:
    """The commands that train the open runs of the plan: one for missing and interrupted runs, one for failed ones."""
    standing = states(context)
    commands = []
    for wanted, flags, text in _OPEN:
        by_pair: dict[tuple[str, ...], list[str]] = {}
        for pair in context.plan.pairs:
            mine = [one for one in standing if one.state in wanted]
            methods = tuple(m for m in context.plan.methods if any(one.is_of(pair, m) for one in mine))
            if methods:
                by_pair.setdefault(methods, []).append(pair.name)
        count = sum(one.state in wanted for one in standing)
        lines = [command_for(context, pairs, methods, flags) for methods, pairs in by_pair.items()]
        if lines:
            commands.append(
                Command(text.format(count=count, runs="run is" if count == 1 else "runs are"), "\n".join(lines))
            )
    return commands


def command_for(context: Context, pairs: Sequence[str], methods: Sequence[str], flags: Sequence[str] = ()) -> str:
    """The command that trains these methods on these pairs, with what the suite has by itself left out."""
    words: list[str] = []
    if set(pairs) != {pair.name for pair in context.plan.suite.pairs}:
        words += ["--pairs", ",".join(pairs)]
    if tuple(methods) != tuple(context.plan.suite.methods):
        words += ["--methods", ",".join(methods)]
    return context.command(*words, *flags)


def _failures(failed: Sequence[Standing]) -> Table:
    rows = []
    for one in failed[:_MAX_FAILURES]:
        ids = (one.run_id,) if one.run_id else ()
        reason = one.reason or "no reason was recorded"
        rows.append(Row((Cell(one.run.label, ids), Cell(reason)), {"run": one.run.label, "reason": reason}))
    rest = len(failed) - len(rows)
    return Table.of_rows(
        "Failed runs.",
        "With the reason that was recorded.",
        (Column("Run", "left"), Column("reason", "left")),
        rows,
        (f"And {rest} more.",) if rest else (),
    )
