"""Files of measured results: changed as text, and cell by cell."""

from __future__ import annotations

import random
from pathlib import Path

from benchmark.analysis import measured
from tests.benchmark.analysis.measured_runs import run
from tests.fuzz import nasty

TEXT = measured.to_csv(run(seed=seed) for seed in (1, 2)) + measured.to_csv([run(failed=True)]).partition("\n")[2]


def generate(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return nasty.changed_text(rng, TEXT)
    lines = [line.split(",") for line in TEXT.splitlines()]
    cells = rng.choice(lines)
    place = rng.randrange(len(cells))
    cells[place] = nasty.changed_text(rng, cells[place] or "1")
    return "\n".join(map(",".join, lines)) + "\n"


def check(case: str, folder: Path) -> None:
    path = folder / "a.csv"
    path.write_bytes(case.encode("utf-8", "replace"))
    found = measured.load(path)
    path.write_text(measured.to_csv(found), "utf-8")
    assert sorted(map(repr, measured.load(path))) == sorted(map(repr, found))
