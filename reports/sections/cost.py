"""The cost of training: time of a step, images per second, hours."""

from __future__ import annotations

import pandas as pd

from benchmark.analysis import published, stats
from benchmark.analysis.methods import pair_title, title_of
from benchmark.analysis.numbers import MISSING, rounded, spread
from benchmark.analysis.scores import as_scores, scores
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table
from benchmark.plan.resolve import Plan
from reports.base import Block, Context, Listing, section

#: metric of the time per step in the last epoch, which no warm-up affects
STEP = "time/step_ms"
BATCH = "param.recipe.batch_size"
TABLE = "sdd/table9"


@section("Cost")
def cost(context: Context) -> list[Block]:
    """Times of the plan's finished runs, next to the paper's; nothing without a time of ours."""
    made = table(context.plan, context.frame)
    if made is None:
        return []
    is_theirs = published.ablation(TABLE).data == context.plan.data.name
    return [Listing("cost", made), *([Listing("cost_published", published_times())] if is_theirs else [])]


def table(plan: Plan, frame: pd.DataFrame) -> Table | None:
    """Tabulate times by pair, device and method; None without any."""
    needed = ["run_id", "method", "repetition", "device", "train_seconds", STEP, BATCH]
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *needed])))
    sections: list[Section] = []
    total, counted = 0.0, set[str]()
    few = False
    for pair in plan.pairs:
        ids = {run_id for method in plan.methods for run_id in scores(frame, pair, method, "last").run_ids}
        of_pair = frame[frame["run_id"].isin(ids)]
        for device in sorted(of_pair["device"].fillna("unknown device").unique()):
            rows = []
            here = of_pair[of_pair["device"].fillna("unknown device") == device]
            for method in plan.methods:
                runs = here[here["method"] == method]
                steps = as_scores(runs, STEP)
                seconds = as_scores(runs, "train_seconds")
                if steps.mean is None and seconds.mean is None:
                    continue
                batch = pd.to_numeric(runs[BATCH], errors="coerce").dropna().unique()
                rate = 1000 * batch[0] / steps.mean if steps.mean and len(batch) == 1 else None
                hours = seconds.mean / 3600 if seconds.mean is not None else None
                spent = sum(seconds.values) / 3600
                # a run without a teacher appears under every pair of its student, and is counted once
                new = set(seconds.run_ids) - counted
                total += sum(v for v, i in zip(seconds.values, seconds.run_ids, strict=True) if i in new) / 3600
                counted |= new
                few |= len(steps.values) < stats.MIN_SEEDS
                num = max(len(steps.values), len(seconds.values))
                row = Row.of(
                    title_of(method),
                    Cell(spread(steps.values), steps.run_ids),
                    Cell(_rate(rate), steps.run_ids if rate is not None else ()),
                    Cell(_hours(hours), seconds.run_ids),
                    Cell(_hours(spent) if seconds.values else MISSING, seconds.run_ids),
                    str(num),
                    pair=pair.name,
                    device=str(device),
                    method=method,
                    step_ms=rounded(steps.mean),
                    images_per_second=rounded(rate),
                    hours_per_run=rounded(hours),
                    hours_in_total=rounded(spent) if seconds.values else None,
                    num_runs=num,
                )
                rows.append(row)
            if rows:
                sections.append(Section(pair_title(pair.name), str(device), tuple(rows)))
    if not sections:
        return None
    notes = [
        "On a CPU, of the student's own steps: forward, loss, backward, update; the teacher's pass and augmentation are"
        " shared by the runs that train side by side, and are not in it. On a GPU, an equal share of the epoch that"
        " those runs spent together, so that it does not tell their methods apart (`make perf` does).",
        "step: in the last epoch, mean ± standard deviation over runs; memory is not tracked by runs"
        " (`make perf` measures it too).",
        f"All finished runs of the plan: {_hours(total)} hours of training.",
    ]
    if few:
        notes.append(f"{FEW_SEEDS} fewer than {stats.MIN_SEEDS} runs.")
    columns = (
        Column("Method", "left"),
        Column("step (ms)"),
        Column("images/s"),
        Column("hours per run"),
        Column("hours in total"),
        Column("runs"),
    )
    subtitle = "Times of runs that shared a machine with others are upper bounds."
    return Table("Time of training", subtitle, columns, tuple(sections), tuple(notes))


def published_times() -> Table:
    """Tabulate the paper's Table 9."""
    series = published.ablation(TABLE)
    sections = []
    for number, line in enumerate(series.rows):
        rows = []
        for level, value in zip(series.levels, line.values, strict=True):
            if value is not None:
                method = str(level)
                texts = title_of(method), f"{value:g}"
                rows.append(Row.of(*texts, row=number, method=method, step_ms=value, table=TABLE))
        sections.append(Section(pair_title(line.pair or str(line)), "", tuple(rows)))
    subtitle = f"{series.source}; {series.metric} in {series.unit}."
    columns = (Column("Method", "left"), Column("step (ms)"))
    return Table(f"Published: {series.title}", subtitle, columns, tuple(sections), series.notes)


def _rate(images_per_second: float | None) -> str:
    if images_per_second is None:
        return MISSING
    return f"{images_per_second:,.0f}" if images_per_second >= 10 else f"{images_per_second:.2g}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return MISSING
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}"
