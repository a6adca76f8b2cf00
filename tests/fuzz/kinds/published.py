"""Files of published numbers: every paper's, changed as text or as a tree."""

from __future__ import annotations

import copy
import random
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from benchmark.analysis import published
from tests.fuzz import nasty


@cache
def entries() -> tuple[tuple[str, Any], ...]:
    """Every entry as (paper, content by name); a whole paper takes too long to read again and again."""
    folder = resources.files("benchmark.analysis") / "published"
    files = {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")}
    return tuple(
        (name.removesuffix(".yaml"), {entry: content})
        for name, text in sorted(files.items())
        for entry, content in yaml.safe_load(text).items()
    )


def generate(rng: random.Random) -> list[str]:
    paper, content = copy.deepcopy(rng.choice(entries()))
    if rng.random() < 0.3:
        return [paper, nasty.changed_text(rng, yaml.safe_dump(content))]
    for _ in range(rng.choice((1, 1, 2, 3))):
        nasty.change(rng, content)
    return [paper, yaml.safe_dump(content)]


def check(case: list[str], folder: Path) -> None:
    paper, text = case if len(case) == 2 else ("paper", "")
    for entry in published.parse_file(paper, text).values():
        if isinstance(entry, published.PublishedRuns):
            entry.means(), entry.spread()
