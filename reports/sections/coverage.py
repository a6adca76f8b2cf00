"""The done, failed and missing runs of the plan, and the command that fills each gap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.plan.resolve import PlannedRun
from benchmark.plan.suite import Pair
from reports.base import Block, Context, Listing, Text, section
from reports.scores import command

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
#: flags of the command that trains a run in this state
_FLAGS: dict[TrackedState, list[str]] = {
    TrackedState.MISSING: [],
    TrackedState.RUNNING: [],
    TrackedState.FAILED: ["--retry-failed"],
}


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
    gaps = _gaps(context, standing)
    if gaps is None:
        blocks.append(Text("Every planned run is finished: there is no gap to fill."))
    else:
        blocks.append(Listing("gaps", gaps))
    failed = [one for one in standing if one.state is TrackedState.FAILED]
    if failed:
        blocks.append(Listing("failures", _failures(failed)))
    return blocks


def _table(context: Context, standing: Sequence[Standing]) -> Table:
    groups = []
    for pair in context.plan.pairs:
        rows = []
        for method in context.plan.methods:
            mine = [one for one in standing if one.is_of(pair, method)]
            counts = [sum(one.state is state for one in mine) for state in TrackedState]
            ids = tuple(one.run_id for one in mine if one.run_id is not None)
            cells = (Cell(method), Cell(str(len(mine))), *(Cell(str(count), ids) for count in counts))
            fields: dict[str, Value] = {"pair": pair.name, "method": method, "planned": len(mine)}
            fields |= {state.name.lower(): count for state, count in zip(TrackedState, counts, strict=True)}
            rows.append(Row(cells, fields))
        groups.append(Section(pair.name, "", tuple(rows)))
    return Table(
        "Planned and done.",
        "Runs by pair and method; a student alone is one run for all pairs it is in.",
        (Column("Method", "left"), Column("planned"), *(Column(state.value) for state in TrackedState)),
        tuple(groups),
    )


def _gaps(context: Context, standing: Sequence[Standing]) -> Table | None:
    rows = []
    for pair in context.plan.pairs:
        by_method = {m: [one for one in standing if one.is_of(pair, m)] for m in context.plan.methods}
        for state, flags in _FLAGS.items():
            open_ones = {m: [one for one in mine if one.state is state] for m, mine in by_method.items()}
            methods = [method for method, mine in open_ones.items() if mine]
            if not methods:
                continue
            line = command_for(context, pair, methods, flags)
            count = sum(map(len, open_ones.values()))
            cells = (Cell(pair.name), Cell(f"{count} {state.value}"), Cell(line))
            fields: dict[str, Value] = {
                "pair": pair.name,
                "state": state.name.lower(),
                "count": count,
                "command": line,
            }
            rows.append(Row(cells, fields))
    if not rows:
        return None
    return Table.of_rows(
        "Commands that fill the gaps.",
        "Finished runs are not trained again; interrupted runs resume.",
        (Column("Pair", "left"), Column("runs", "left"), Column("command", "left")),
        rows,
        ("A failed run ended with a loss that was not finite, or with an error; see its reason first.",)
        if any("--retry-failed" in str(row.fields["command"]) for row in rows)
        else (),
    )


def command_for(context: Context, pair: Pair, methods: Iterable[str], flags: Sequence[str] = ()) -> str:
    """The command that trains the open runs of these methods on a pair."""
    chosen = list(methods)
    words = ["--pairs", pair.name]
    if tuple(chosen) != tuple(context.plan.suite.methods):  # the suite's own methods need not be named
        words += ["--methods", ",".join(chosen)]
    return command(context, *words, *flags)


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
