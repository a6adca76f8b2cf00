"""What every section of the report promises: it is made of any runs, of none as well, and every writer takes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import pytest

from benchmark.analysis.latex import latex
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.tracking import Tracked, Tracker
from reports import sections
from reports.base import Block, Context, Drawing, Listing
from reports.gather import gather
from tests.conftest import SMALL_SUITE
from tests.reports import frames, synthetic

SECTIONS = {one.name: one for one in sections.in_order()}
METRICS = {"test/agreement": 80.0, "test/nll": 1.5, "train/loss": 0.5}


@cache
def context(kind: str) -> Context:
    """What is known of a small suite whose runs are all of a kind."""
    plan = make_plan(suite.Suite(name="small", **SMALL_SUITE))
    changes: dict[str, dict[str, Any]] = {
        "finished": {"metrics": METRICS},
        "half of them finished": {"metrics": METRICS, "only": len(plan.runs) // 2},
        "failed": {"status": "FAILED", "tags": {"failure_reason": "the loss is not finite"}},
    }
    runs: list[Tracked] = synthetic.tracked(plan, **changes[kind]) if kind in changes else []
    store = cast(Tracker, synthetic.Store(runs, plan.slug))
    made = gather([plan], store, **synthetic.nowhere(Path("nowhere")), arguments=[plan.suite.name])
    assert len(made.frame) == len(runs)
    return made


def check_written(blocks: Sequence[Block]) -> None:
    """Every writer takes the blocks, and no two of their files have the same name."""
    names = [block.name for block in blocks if isinstance(block, Listing | Drawing)]
    assert len(set(names)) == len(names)
    for block in blocks:
        if isinstance(block, Listing):
            table = block.table
            assert all(len(row.cells) == len(table.columns) for part in table.sections for row in part.rows)
            assert table.to_markdown() and latex(table, block.name) and table.to_typst()
            table.to_csv()
        elif isinstance(block, Drawing):
            assert block.caption
            frames.check_drawn(block.figure)
            plt.close(block.figure)
        else:
            assert block.text


@pytest.mark.parametrize("kind", ["none", "finished", "half of them finished", "failed"])
@pytest.mark.parametrize("name", SECTIONS)
def test_is_made_of_any_runs(name: str, kind: str) -> None:
    check_written(SECTIONS[name].make(context(kind)))


@pytest.mark.parametrize("name", SECTIONS)
def test_is_made_of_runs_of_several_methods_on_a_published_pair(name: str) -> None:
    runs = [run for method in frames.METHODS for run in frames.runs(method, [70.0, 71.5, 71.0], metrics=METRICS)]
    check_written(SECTIONS[name].make(frames.context(runs)))
