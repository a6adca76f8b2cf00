"""Measured runs of a plan that nobody measured."""

from __future__ import annotations

from typing import Any

from benchmark.analysis.measured import MeasuredRun
from benchmark.config import RunConfig
from benchmark.plan.resolve import Plan
from tests.reports import synthetic

MACHINE = "AVX2, oneDNN avx2, 1 thread"


def run(*, seed: int = 1, failed: bool = False, **changes: Any) -> MeasuredRun:
    """A run of sdd_kd under a teacher."""
    figures = {"last": None, "best_test": None, "failure": "loss"} if failed else {"last": 75.25, "best_test": 76.5}
    fields: dict[str, Any] = {
        "signature": f"{seed + 100 * failed:016x}", "configuration": "c" * 16, "dataset": "cifar100",
        "data_digest": synthetic.DIGEST, "teacher": "resnet32x4", "student": "resnet8x4", "method": "sdd_kd",
        "seed": seed, "status": "failed" if failed else "finished", "epochs": 240, "teacher_checksum": "e" * 64,
        "teacher_top1": 79.5, "teacher_precision": "fp32", "teacher_cache": "none", "device": "a CPU",
        "machine": MACHINE, "commit": synthetic.COMMIT, "dirty": False, "date": "2026-01-31T23:59:59Z",
        "train_seconds": 60.5, "versions": "python 3.11, torch 2.11", "failure": None, **figures, **changes,
    }  # fmt: skip
    return MeasuredRun(**fields)


def of_config(config: RunConfig, number: int, **changes: Any) -> MeasuredRun:
    """The run of a configuration."""
    without = {"teacher_checksum": None, "teacher_top1": None, "teacher_precision": None, "teacher_cache": None}
    return run(
        **{
            "signature": f"{number:016x}", "configuration": config.settings_hash, "teacher": config.teacher,
            "student": config.student, "method": config.method, "seed": config.repetition,
            "epochs": config.recipe.epochs, **({} if config.teacher else without), **changes,
        }
    )  # fmt: skip


def of_plan(plan: Plan, **changes: Any) -> list[MeasuredRun]:
    """A finished run for every run of a plan: 70, 70.5, ... and the best 0.25 above."""
    return [
        of_config(one.config, number, last=70 + number / 2, best_test=70.25 + number / 2, **changes)
        for number, one in enumerate(plan.runs)
    ]
