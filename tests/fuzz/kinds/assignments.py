"""`--set KEY=VALUE`, by known and unknown keys, over every suite."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import distillers
from benchmark.config import Data, Recipe
from benchmark.plan import suite
from benchmark.plan.resolve import _TOP_FIELDS, make_plan
from benchmark.plan.suite import Suite
from tests.fuzz import nasty


@cache
def fields() -> dict[str, Any]:
    """The default of every field, by key."""
    groups: dict[str, Any] = {
        group: made for name in distillers.names() for group, made in distillers.groups(name).items()
    }
    groups |= {"recipe": Recipe, "teacher_recipe": Recipe, "data": Data}
    found = {
        f"{group}.{name}": None if field.is_required() else field.default
        for group, made in groups.items()
        for name, field in made.model_fields.items()
    }
    options = {"path": "birds", "image_size": 224, "cache": "cache", "memory_gb": 1.0, "num_workers": 2}
    found |= {f"data.{name}": default for name, default in options.items()}
    return found | {key: Suite.model_fields[key].default for key in _TOP_FIELDS}


def assignment(rng: random.Random) -> str:
    """One assignment, mostly of a known key."""
    key, draw = rng.choice(tuple(fields())), rng.random()
    given = nasty.near(rng, fields()[key]) if draw < 0.5 else nasty.value(rng)
    if draw > 0.97:
        return nasty.word(rng)
    if draw > 0.9:
        key = nasty.changed_text(rng, key)
    if isinstance(given, list) and rng.random() < 0.5:
        return f"{key}={','.join(map(str, given))}"
    return f"{key}={str(given).lower() if isinstance(given, bool) else given}"


def generate(rng: random.Random) -> dict[str, Any]:
    return {
        "suite": rng.choice(("digits", "digits", "folder", "cub")),
        "assignments": [assignment(rng) for _ in range(rng.choice((1, 1, 1, 2, 4)))],
        "tuning": rng.random() < 0.1,
    }


@cache
def _loaded(name: str) -> suite.Suite:
    return suite.load(name)


def check(case: dict[str, Any], folder: Path) -> None:
    plan = make_plan(
        _loaded(case.get("suite", "digits")), assignments=case.get("assignments", []), tuning=case.get("tuning", False)
    )
    assert len(plan.file_name) < 200
    plan.runs[0].config.signature("digest", "checksum")
    plan.runs[-1].config.distiller()
