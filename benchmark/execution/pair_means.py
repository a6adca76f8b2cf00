"""Mean, standard deviation and number of seeds of every method, as metrics of its pair's run in MLflow.

They are a function of the finished runs below the pair's run, so that it does not matter which command writes them, or
how often: whoever has finished a run reads them all, under a lock, and logs what has changed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from filelock import FileLock

from benchmark.analysis.stats import mean_std
from benchmark.config import RunConfig
from benchmark.execution.options import Options
from benchmark.plan.resolve import Plan
from benchmark.saved_views import VARIANT
from benchmark.tracking import Tracked, Tracker

#: what the figures are of
_METRIC = "final/last"
#: characters that MLflow takes in the name of a metric, and how many
_FOREIGN, _LONGEST = re.compile(r"[^\w\-./ :]+"), 200


@dataclass(frozen=True)
class Variant:
    """A method with its settings, of whatever seed, below the run of its pair."""

    #: the pair's run
    parent_id: str
    #: as its figures are called, see `name_of`
    name: str
    config: RunConfig
    data_digest: str


def update(tracker: Tracker, options: Options, variants: Iterable[Variant]) -> None:
    """Log the figures of these variants to the runs of their pairs, where they have changed.

    All seeds that were trained with a variant's settings count, whichever command trained them; runs of the method with
    other settings do not. Methods whose settings `--set` changed have a name that says so, `mean/kd kd.temperature:2`.
    """
    wanted: defaultdict[str, dict[str, Variant]] = defaultdict(dict)
    for variant in variants:
        wanted[variant.parent_id][variant.name] = variant
    with FileLock(options.runs / "locks" / "pair-means.lock"):
        for parent, by_name in wanted.items():
            known = tracker.metrics(parent)
            methods = {variant.config.method for variant in by_name.values()}
            children = tracker.runs_below(parent, methods.pop() if len(methods) == 1 else "")
            found: dict[str, float] = {}
            for name, variant in by_name.items():
                seeds = _with_settings_of(variant, children)
                found |= figures(name, [run.metrics[_METRIC] for run in seeds])
                for run in seeds:
                    if VARIANT not in run.tags:  # of an earlier version
                        tracker.tag(run.run_id, {VARIANT: name})
            if changed := {name: value for name, value in found.items() if known.get(name) != value}:
                tracker.summarise(parent, changed)


def figures(name: str, accuracies: Sequence[float]) -> dict[str, float]:
    """Figures by metric name, accuracies rounded to what a page shows: `mean/kd`, `std/kd` of two or more, `n/kd`."""
    if not accuracies:
        return {}
    mean, std = mean_std(accuracies)
    made = {f"mean/{name}": round(mean, 2), f"n/{name}": float(len(accuracies))}
    return made | ({} if std is None else {f"std/{name}": round(std, 2)})


def name_of(plan: Plan, method: str) -> str:
    """The method, followed by the changes of the plan that concern it."""
    changes = [change.replace("=", ":", 1) for change in plan.changes_of(method)]
    return _FOREIGN.sub("-", " ".join([method, *changes]))[:_LONGEST]


def _with_settings_of(variant: Variant, children: Sequence[Tracked]) -> list[Tracked]:
    """The finished runs that differ from the variant in nothing but the seed, each seed once.

    Of several teachers, as two runs folders on one server may train them, the one with the most seeds; the earliest of
    equals.
    """
    by_teacher: defaultdict[str | None, dict[str, Tracked]] = defaultdict(dict)
    for run in sorted(children, key=lambda run: run.start_time):
        if not run.tags.get("seed", "").isdigit():  # of another origin
            continue
        teacher = run.tags.get("teacher_checksum")
        config = variant.config.model_copy(update={"repetition": int(run.tags["seed"])})
        if run.signature == config.signature(variant.data_digest, teacher) and _METRIC in run.metrics:
            by_teacher[teacher].setdefault(run.signature, run)
    return [*max(by_teacher.values(), key=len, default={}).values()]
