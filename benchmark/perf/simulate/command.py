"""The command: simulate, show the table, write figure and numbers."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark import command_line, files
from benchmark.execution.estimate import Costs, cohorts_of
from benchmark.execution.survey import Entry
from benchmark.perf.simulate import report
from benchmark.perf.simulate.costs import SPEEDUP, ModelledCosts, stand_in
from benchmark.perf.simulate.engine import Machine
from benchmark.perf.simulate.simulation import Bound, Packing, bound_of, simulate
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan

#: lanes of a cohort, at most, in the packing that limits them
LIMIT = 64


def whole(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
    """Make the largest cohorts: for one worker, no split pays."""
    return cohorts_of(entries, 1, costs)


def alone(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
    """Make a cohort of every run."""
    return [[entry] for group in whole(entries, workers, costs) for entry in group]


def limited(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
    """Make the planner's cohorts, and cut those of more than `LIMIT` lanes into equal parts."""
    cut = []
    for group in cohorts_of(entries, workers, costs):
        parts = -(-len(group) // LIMIT)
        cut += [group[place::parts] for place in range(parts)]
    return cut


#: the first one is the planner's own
PACKINGS: dict[str, Packing] = {
    "balance": cohorts_of, f"at most {LIMIT} lanes": limited, "never split": whole, "one lane": alone,
}  # fmt: skip


def command(given: argparse.Namespace, console: Console) -> int:
    """Simulate every case; return the command's exit code."""
    files.check_writable(given.out, "name a folder with --out")
    precision = "bf16" if given.costs == "gpu" else "fp32"
    plan = make_plan(
        suite.load("cifar100"),
        methods=command_line.words(given.methods),
        seeds=given.seeds,
        assignments=[f"teacher_precision={precision}"],
    )
    data = stand_in()
    costs = ModelledCosts(data, SPEEDUP[given.costs])
    machine = Machine(mean_life_s=3600.0 * given.life)
    bound = bound_of(plan, data, costs)
    cases: list[report.Case] = []
    started = time.process_time()
    written: list[Path] = []
    for workers in given.workers:
        for name, packing in PACKINGS.items():
            if packing is not cohorts_of and workers not in given.compare:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                outcome = simulate(plan, data, costs, workers, Path(scratch), machine, given.random, packing)
            cases.append((name, outcome))
            cases.sort(key=lambda case: (list(PACKINGS).index(case[0]), case[1].workers))
            console.print(f"{workers} workers, {name}: {outcome.utilisation:.1%} busy", highlight=False)
            # after every case: a simulation that is interrupted leaves what it has found
            about = _about(plan, given, machine, time.process_time() - started)
            written = _write(given.out, given.name, about, bound, cases)
    report.to_table(bound, cases).show(console, "the written table")
    for path in written:
        console.print(str(path), soft_wrap=True)
    return 0


def _about(plan: Plan, given: argparse.Namespace, machine: Machine, cpu_s: float) -> dict[str, Any]:
    return {
        "suite": plan.name,
        "methods": len(plan.methods),
        "seeds": plan.seeds,
        "runs": len(plan.runs),
        "teachers": len(plan.teachers),
        "costs": given.costs,
        "speedup": SPEEDUP[given.costs],
        "mean_life_s": machine.mean_life_s,
        "saving_s": machine.saving_s,
        "start_s": machine.start_s,
        "random": given.random,
        "simulation_cpu_s": round(cpu_s, 1),
    }


def _write(out: Path, name: str, about: dict[str, Any], bound: Bound, cases: Sequence[report.Case]) -> list[Path]:
    contents = {
        "json": report.numbers(about, bound, cases),
        "md": report.to_table(bound, cases).to_markdown().encode(),
        **report.figure(bound, cases),
    }
    for kind, content in contents.items():
        files.write(out / f"{name}.{kind}", content)
    return [out / f"{name}.{kind}" for kind in contents]
