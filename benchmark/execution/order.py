"""What is trained first under a deadline, and how far everything will get by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.execution.estimate import Costs, cohorts_of, distinct
from benchmark.execution.survey import Entry, Survey
from benchmark.plan.suite import Pair

#: sorts runs: started before new, then by seed, then by the place of the pair in the plan; teachers before students
Priority = tuple[bool, int, int, bool]


def priority_of(entry: Entry, entries: Sequence[Entry], pairs: Sequence[Pair]) -> Priority:
    """Priority of a run among a plan's students; that of a teacher is the first of the students that need it."""
    if entry.role == "teacher":
        needing = [one for one in entries if one.config.teacher == entry.config.student and one.is_open]
        first = min((priority_of(one, entries, pairs) for one in needing), default=(True, 1, 0, False))
        return (first[0] and not _is_started(entry), first[1], first[2], False)
    places = [
        place
        for place, pair in enumerate(pairs)
        if pair.student == entry.config.student and entry.config.teacher in (None, pair.teacher)
    ]
    return not _is_started(entry), entry.config.repetition, min(places, default=len(pairs)), True


def _is_started(entry: Entry) -> bool:
    return entry.progress > 0


@dataclass(frozen=True)
class Work:
    """A cohort that is to be trained."""

    entries: tuple[Entry, ...]
    seconds: float
    #: the teacher that has to be trained before, and the one that this is
    needs: str | None = None
    makes: str | None = None


def works_of(survey: Survey, costs: Costs) -> list[Work]:
    """All open runs of a survey as cohorts, the first one first."""
    known = known_epochs([*survey.entries, *survey.teacher_entries.values()])
    pairs, workers = survey.plan.pairs, survey.options.workers
    works = [
        Work((entry,), seconds_of([entry], costs, known), makes=entry.config.student)
        for entry in survey.teacher_entries.values()
        if entry.is_open
    ]
    for group in cohorts_of(distinct(entry for entry in survey.entries if entry.is_open), workers, costs):
        needs = next((entry.config.teacher for entry in group if entry.state == "waiting"), None)
        works.append(Work(tuple(group), seconds_of(group, costs, known), needs=needs))
    return sorted(works, key=lambda work: min(priority_of(one, survey.entries, pairs) for one in work.entries))


def known_epochs(entries: Sequence[Entry]) -> dict[str, float]:
    """Seconds of an epoch, evaluation excluded, of the cohorts that runs were trained in on this machine.

    By settings: runs that differ in nothing but the seed take as long.
    """
    return {_settings(entry): entry.epoch_s for entry in entries if entry.epoch_s is not None}


def seconds_of(group: Sequence[Entry], costs: Costs, known: Mapping[str, float]) -> float:
    """Seconds that a cohort takes: from measured epochs where all its runs have them, or else from measured steps.

    Runs of equal time were trained in one cohort; several cohorts in one take no longer than one after the other.
    """
    configs = [entry.config for entry in group]
    measured = [known.get(_settings(entry)) for entry in group]
    if any(one is None for one in measured):
        return costs.cohort_s(configs, group[0].progress)
    epoch_s = sum({one for one in measured if one is not None}) + costs.evaluations_s(configs)
    return (configs[0].recipe.epochs - group[0].progress) * epoch_s


def _settings(entry: Entry) -> str:
    return entry.config.model_copy(update={"repetition": 0}).model_dump_json()


def forecast(works: Sequence[Work], workers: int, train_s: float) -> list[float]:
    """Share of each cohort that is trained within `train_s` seconds, when each worker takes the first that is ready."""
    free_at = [0.0] * workers
    made = {work.makes: float("inf") for work in works if work.makes is not None}
    shares = [0.0] * len(works)
    waiting = list(range(len(works)))
    while waiting:
        worker = free_at.index(min(free_at))
        now = free_at[worker]
        ready_at = {number: max(now, made.get(works[number].needs or "", 0.0)) for number in waiting}
        number = min(waiting, key=lambda one: (ready_at[one], one))
        start = ready_at[number]
        if start >= train_s:
            break
        waiting.remove(number)
        work = works[number]
        free_at[worker] = start + work.seconds
        shares[number] = min(1.0, (train_s - start) / work.seconds) if work.seconds else 1.0
        if work.makes is not None:
            made[work.makes] = free_at[worker]
    return shares


def outlook(works: Sequence[Work], shares: Sequence[float]) -> list[str]:
    """Say what becomes of the runs by the deadline."""
    pairs = zip(works, shares, strict=True)
    return grouped((entry, outcome_of(entry, share)) for work, share in pairs for entry in work.entries)


def grouped(described: Iterable[tuple[Entry, str]]) -> list[str]:
    """Make a line per teacher, and per pair and seed, that counts the runs of each description."""
    found: dict[str, Counter[str]] = {}
    for entry, words in described:
        name = entry.label if entry.role == "teacher" else f"{entry.pair_name}, seed {entry.config.repetition}"
        found.setdefault(name, Counter())[words] += 1
    return [
        f"{name}: " + ", ".join(words if tally.total() == 1 else f"{count} {words}" for words, count in tally.items())
        for name, tally in found.items()
    ]


def outcome_of(entry: Entry, share: float) -> str:
    """What becomes of a run when a share of what is left of it is trained."""
    epochs = entry.config.recipe.epochs
    if share >= 1:
        return "finished"
    if share <= 0:
        return "in the next sitting" if not entry.progress else "resumes in the next sitting"
    return f"to about epoch {min(epochs, int(entry.progress + share * (epochs - entry.progress)) + 1)} of {epochs}"
