"""Tables, numbers and the figure of simulations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmark.analysis import style
from benchmark.analysis.table import Column, Row, Table
from benchmark.execution.progress import duration
from benchmark.perf.simulate.simulation import Bound, Outcome

#: of a case, in the JSON: the packing's name, the outcome
Case = tuple[str, Outcome]


def numbers(about: dict[str, Any], bound: Bound, cases: Sequence[Case]) -> bytes:
    """Write what was simulated, and every outcome, as JSON."""
    rows = [_fields(packing, outcome, bound) for packing, outcome in cases]
    content = {**about, "bound": {"work_s": bound.work_s, "chain_s": bound.chain_s}, "cases": rows}
    return (json.dumps(content, indent=1) + "\n").encode()


def _fields(packing: str, outcome: Outcome, bound: Bound) -> dict[str, Any]:
    tally = outcome.tally
    return {
        "packing": packing,
        "workers": outcome.workers,
        "makespan_s": outcome.makespan_s,
        "bound_s": bound.makespan_s(outcome.workers),
        "utilisation": outcome.utilisation,
        "trained_s": tally.trained_s,
        "lost_s": tally.lost_s,
        "saving_s": tally.saving_s,
        "starting_s": tally.starting_s,
        "deaths": tally.num_deaths,
        "crashed_cohorts": tally.num_crashed,
        "commands": outcome.num_commands,
        "cohorts": len(tally.lanes) - tally.num_deaths,
        "largest_cohort": max(tally.lanes),
        "median_cohort": statistics.median(tally.lanes),
        "planner_cpu_s": outcome.planner_s,
        "command_cpu_s": outcome.command_s,
    }


def to_table(bound: Bound, cases: Sequence[Case]) -> Table:
    """Tabulate the outcomes, a row each."""
    columns = (
        "Workers", "packing", "time", "times the bound", "utilisation", "work repeated", "deaths", "lost", "cohorts",
        "largest", "planner, CPU-s",
    )  # fmt: skip
    rows = []
    for packing, outcome in cases:
        tally = outcome.tally
        texts = (
            f"{outcome.workers}", packing, duration(outcome.makespan_s),
            f"{outcome.makespan_s / bound.makespan_s(outcome.workers):.2f}", f"{100 * outcome.utilisation:.0f}%",
            f"{round(100 * (tally.trained_s / bound.work_s - 1), 1) + 0.0:.1f}%", f"{tally.num_deaths}",
            f"{100 * (tally.lost_s + tally.starting_s) / bound.work_s:.2f}%",
            f"{len(tally.lanes) - tally.num_deaths}", f"{max(tally.lanes)}", f"{outcome.planner_s:.1f}",
        )  # fmt: skip
        rows.append(Row.of(*texts, workers=outcome.workers, packing=packing))
    return Table.of_rows(
        "The plan on more and more simulated workers.",
        "Bound: all work with every teacher pass shared as far as can be, by the workers, or the longest teacher with"
        " its longest student. Work repeated: teacher passes that splits cost. Lost: training that deaths undid, and"
        " starts of workers, of all work.",
        tuple(Column(name, "left" if name == "packing" else "right") for name in columns),
        rows,
    )


def figure(bound: Bound, cases: Sequence[Case]) -> dict[str, bytes]:
    """Draw time and utilisation over the number of workers, a line per packing, as `svg` and `png`."""
    with style.style():
        drawn = style.canvas(7.2, 2.9)
        left, right = drawn.subplots(1, 2)
        counts = sorted({outcome.workers for _, outcome in cases})
        left.plot(counts, [bound.makespan_s(one) / 3600 for one in counts], color=style.FAINT, label="lower bound")
        for number, packing in enumerate(dict.fromkeys(name for name, _ in cases)):
            own = [outcome for name, outcome in cases if name == packing]
            look: dict[str, Any] = {
                "color": style.COLOURS[number], "marker": style.MARKERS[number], "label": packing,
                "linestyle": "-" if len(own) == len(counts) else ":",
            }  # fmt: skip
            workers = [one.workers for one in own]
            left.plot(workers, [one.makespan_s / 3600 for one in own], **look)
            right.plot(workers, [100 * one.utilisation for one in own], **look)
        left.set(title="Time until every run is finished", yscale="log", ylabel="hours")
        right.set(title="Workers' time spent training", ylabel="percent", ylim=(0, 102))
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(counts, [str(one) for one in counts])
            axes.set_xlabel("workers")
        left.legend()
    return style.saved(drawn)
