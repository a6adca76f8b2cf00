"""Tracked runs of a plan that nobody trained, and a store that holds them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.plan.resolve import Plan
from benchmark.tracking import Status, Tracked, flat

DIGEST = "d" * 64
COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"


class Store:
    """What the reports ask of a tracker, over a list of runs."""

    is_local = True
    is_read_only = False
    uri = "sqlite:///nowhere"

    def __init__(self, runs: Sequence[Tracked], experiment: str) -> None:
        self.held, self.experiment = list(runs), experiment

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        yield

    def experiments(self) -> dict[str, str]:
        return {self.experiment: "1"}

    def runs_with(self, signatures: Collection[str]) -> list[Tracked]:
        return [run for run in self.held if run.signature in signatures]

    def runs_on(self, digest: str, query: str = "", limit: int | None = None) -> list[Tracked]:
        return self._with_tags(f"tags.data_digest = '{digest}' and {query}")[:limit]

    def values(self, tag: str, experiments: Sequence[str] | None = None, query: str = "") -> list[str]:
        return list(dict.fromkeys(run.tags[tag] for run in self._with_tags(query) if run.tags.get(tag)))

    def _with_tags(self, query: str) -> list[Tracked]:
        wanted = dict(re.findall(r"tags\.(\w+) = '([^']*)'", query)).items()
        return [run for run in self.held if wanted <= run.tags.items()]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        return [(1, 50.0), (2, 60.0)]


def checksum(model: str) -> str:
    """Return the checksum of a teacher that does not exist."""
    return hashlib.sha256(model.encode()).hexdigest()


def accuracy(*key: object) -> float:
    """Return an accuracy between 60 and 62, a function of the key."""
    return 60 + int(hashlib.sha256(repr(key).encode()).hexdigest()[:4], 16) % 200 / 100


def tracked(
    plan: Plan,
    *,
    status: Status = "FINISHED",
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    only: int | None = None,
    commit: str = COMMIT,
) -> list[Tracked]:
    """Return one run for each of a plan's first `only` runs; `metrics` and `tags` are laid over its own."""
    return [
        _one(number, planned.config, plan, status, metrics or {}, tags or {}, commit)
        for number, planned in enumerate(plan.runs[:only])
    ]


def _one(
    number: int, config: Any, plan: Plan, status: Status, metrics: Mapping[str, float], tags: Mapping[str, str],
    commit: str
) -> Tracked:  # fmt: skip
    last = accuracy(config.student, config.method, config.repetition)
    of_teacher = {"teacher": config.teacher, "teacher_checksum": checksum(config.teacher)} if config.teacher else {}
    return Tracked(
        run_id=f"{number:04d}{commit[:4]}" + "0" * 24,
        experiment_id="1",
        signature=config.signature(DIGEST, checksum(config.teacher) if config.teacher else None),
        status=status,
        final_failure=status == "FAILED",
        tags={
            "role": "student", "suite": plan.suite.name, "method": config.method, "student": config.student,
            "seed": str(config.repetition), "dataset": plan.data.name, "data_digest": DIGEST, "git_commit": commit,
            "git_dirty": "false", "device": "a CPU", "versions": "torch 2.15.0", **of_teacher, **tags,
        },
        metrics={"final/last": last, "final/best_selected_on_test": last + 0.5, "final/train_seconds": 60.0, "lr": 0.1,
                 "test/top1": last, **metrics},
        params={key: str(value) for key, value in flat(config.model_dump(mode="json")).items()},
        start_time=1_700_000_000_000 + number,
    )  # fmt: skip


def nowhere(folder: Path) -> dict[str, Path]:
    """Return empty places."""
    return {"runs": folder / "runs", "data_root": folder / "data"}
