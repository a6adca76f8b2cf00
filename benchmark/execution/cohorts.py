"""Group runs into cohorts, which share data, teacher, batches and seed; lanes are regrouped at every start."""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from benchmark.config import RunConfig

T = TypeVar("T")


def cohort_key(config: RunConfig) -> tuple[Hashable, ...]:
    """Settings that runs must share to train on one stream of batches; those of `teacher_key` come in addition."""
    recipe = config.recipe
    return (
        config.data.model_dump_json(),
        config.base_seed,
        config.repetition,
        recipe.epochs,
        recipe.batch_size,
        recipe.drop_last,
        config.precision,
        config.ranks,
        config.sync_batch_norm,
        config.eval_every,
        config.tuning,
    )


def teacher_key(config: RunConfig) -> tuple[Hashable, ...]:
    """Settings that runs must share to learn from one teacher pass."""
    return config.teacher, config.teacher_precision, config.teacher_cache


def group(runs: Iterable[T], config_of: Callable[[T], RunConfig], done: Callable[[T], Hashable]) -> list[list[T]]:
    """Group runs into cohorts: equal key, equal teacher, as many epochs and steps done.

    Runs without a teacher join a cohort of equal key that has one (the first, in order), or form their own.
    """
    groups: dict[tuple[Hashable, ...], list[T]] = defaultdict(list)
    without_teacher: list[T] = []
    for run in runs:
        config = config_of(run)
        if config.teacher is None:
            without_teacher.append(run)
        else:
            groups[cohort_key(config), teacher_key(config), done(run)].append(run)
    for run in without_teacher:
        key, place = cohort_key(config_of(run)), done(run)
        hosts = [group for group in groups if group[0] == key and group[2] == place]
        groups[hosts[0] if hosts else (key, None, place)].append(run)
    return list(groups.values())


def balance(groups: Sequence[list[T]], workers: int, cost: Callable[[list[T]], float]) -> list[list[T]]:
    """Split cohorts so that the workers are evenly loaded, and return them costliest first.

    A split costs one more teacher pass per batch. The number of splits is the one that gives the busiest worker the
    least load, by `cost`; more splits must make it 3% shorter. A lane's result does not depend on its cohort, so this
    never changes a number.
    """
    priced = sorted(((cost(group), group) for group in groups), key=_costliest_first)
    best, shortest = priced, _makespan(priced, workers)
    # more pieces than this never help: every worker then has several, which even out
    while len(priced) < len(groups) + 2 * workers:
        position = next((place for place, (_, group) in enumerate(priced) if len(group) > 1), None)
        if position is None:
            break
        _, costliest = priced[position]
        # every second lane, so that both halves get as many lanes of each kind
        halves = [(cost(half), half) for half in (costliest[::2], costliest[1::2])]
        priced = [*priced[:position], *priced[position + 1 :]]
        for half in halves:
            bisect.insort(priced, half, key=_costliest_first)
        if (makespan := _makespan(priced, workers)) < 0.97 * shortest:
            best, shortest = priced, makespan
    return [group for _, group in best]


def _costliest_first(priced: tuple[float, list[T]]) -> float:
    return -priced[0]


def _makespan(priced: Sequence[tuple[float, list[T]]], workers: int) -> float:
    """Load of the busiest worker when each group in turn goes to the least loaded worker."""
    loads = [0.0] * max(workers, 1)
    for seconds, _ in priced:
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)
