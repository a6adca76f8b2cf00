"""Suite files: every suite of the package and a small one, changed in a few places, as text or as a tree."""

from __future__ import annotations

import copy
import random
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from benchmark import catalogue
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from tests.conftest import SMALL_SUITE
from tests.fuzz import nasty


@cache
def texts() -> tuple[str, ...]:
    folder = resources.files("benchmark.plan") / "suites"
    every = [(folder / f"{name}.yaml").read_text("utf-8") for name in catalogue.suites()]
    return (*[yaml.safe_dump(SMALL_SUITE)] * 3, *every)


@cache
def trees() -> tuple[Any, ...]:
    return tuple(yaml.safe_load(text) for text in texts())


def generate(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.4:
        text = nasty.changed_text(rng, rng.choice(texts()))
    else:
        tree = copy.deepcopy(rng.choice(trees()))
        if rng.random() < 0.2:
            tree["name"] = nasty.value(rng)
        for _ in range(rng.choice((1, 1, 2, 4))):
            nasty.change(rng, tree)
        text = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5)
    return {"text": text, "profile": rng.choice((None, None, "smoke", nasty.word(rng)))}


def check(case: dict[str, Any], folder: Path) -> None:
    text = case.get("text", "").encode("utf-8", "surrogateescape" if "\udcff" in case.get("text", "") else "replace")
    (folder / "own.yaml").write_bytes(text)
    loaded = suite.load(str(folder / "own.yaml"))
    plan = make_plan(loaded, profile=case.get("profile"))
    for name in (plan.slug, plan.file_name, plan.experiment_name):
        assert (folder / "results" / f"{name}.md").resolve().parent == (folder / "results").resolve()
        assert len(f"{name}.md.partial".encode()) < 255
    for run in plan.runs[:50]:
        assert len(run.config.signature("digest", "checksum")) == 16
        assert run.label
