"""Which runs train side by side: cohorts share data, teacher, batches and seed; lanes are regrouped at every start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from benchmark.config import RunConfig

T = TypeVar("T")


def cohort_key(config: RunConfig) -> tuple[Hashable, ...]:
    """Return what runs must share to train on one stream of batches; the teacher comes on top of it."""
    recipe = config.recipe
    return (
        config.data.model_dump_json(),
        config.base_seed,
        config.repetition,
        recipe.epochs,
        recipe.batch_size,
        recipe.drop_last,
        config.precision,
        config.eval_every,
    )


def cohorts(runs: Iterable[T], config_of: Callable[[T], RunConfig], epochs_done: Callable[[T], int]) -> list[list[T]]:
    """Group runs into cohorts: equal key, equal teacher, equal number of finished epochs.

    Runs without a teacher join a cohort of equal key that has one (the first, in order), or form their own.
    """
    groups: dict[tuple[Hashable, ...], list[T]] = defaultdict(list)
    without_teacher: list[T] = []
    for run in runs:
        config = config_of(run)
        if config.teacher is None:
            without_teacher.append(run)
        else:
            groups[cohort_key(config), config.teacher, epochs_done(run)].append(run)
    for run in without_teacher:
        key, done = cohort_key(config_of(run)), epochs_done(run)
        hosts = [group for group in groups if group[0] == key and group[2] == done]
        groups[hosts[0] if hosts else (key, None, done)].append(run)
    return list(groups.values())


def balance(groups: Sequence[list[T]], workers: int, cost: Callable[[list[T]], float]) -> list[list[T]]:
    """Split the largest cohorts until the workers are evenly loaded, largest first.

    A split costs one more teacher pass per batch, so a cohort is split only while the longest worker's load, by
    `cost`, gets shorter. A lane's result does not depend on its cohort, so this never changes a number.
    """
    best = sorted(groups, key=cost, reverse=True)
    while True:
        candidate = _split_largest(best)
        if candidate is None:
            return best
        candidate.sort(key=cost, reverse=True)
        if _makespan(candidate, workers, cost) >= 0.97 * _makespan(best, workers, cost):
            return best
        best = candidate


def _split_largest(groups: list[list[T]]) -> list[list[T]] | None:
    position = max(range(len(groups)), key=lambda i: len(groups[i]), default=None)
    if position is None or len(groups[position]) < 2:
        return None
    largest = groups[position]
    # alternate, so that the halves get as many lanes of each kind
    return [*groups[:position], *groups[position + 1 :], largest[::2], largest[1::2]]


def _makespan(groups: Sequence[list[T]], workers: int, cost: Callable[[list[T]], float]) -> float:
    """Return the longest worker's load when each group goes to the least loaded worker in turn."""
    loads = [0.0] * max(workers, 1)
    for group in groups:
        loads[loads.index(min(loads))] += cost(group)
    return max(loads)
