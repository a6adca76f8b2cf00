"""Synthetic frames of runs, and a context that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmark import results
from benchmark.analysis.table import Table
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Status, Tracked
from reports.base import Block, Command, Context, Drawing, Listing, Text
from tests.studies.texts import unreadable

PAIR = "resnet32x4:shufflenet_v1"
METHODS = ("vanilla", "kd", "sdd_kd")


def plan(methods: Sequence[str] = METHODS, pairs: Sequence[str] = (PAIR,), **choice: Any) -> Plan:
    """A part of the suite cifar100."""
    return make_plan(suite.load("cifar100"), methods=methods, pairs=pairs, **choice)


def runs(method: str, last: Sequence[float], *, pair: str = PAIR, first: int = 1, status: Status = "FINISHED",
         params: Mapping[str, object] = {}, metrics: Mapping[str, float] = {}, name: str = ""
         ) -> list[Tracked]:  # fmt: skip
    """One run per value, its best on test 0.5 above the last."""
    teacher, student = pair.split(":")
    made = []
    for seed, value in enumerate(last, start=first):
        run_id = f"{name or method}-{student}-{seed}"
        tags = {"role": "student", "student": student, "method": method, "seed": str(seed), "device": "a CPU"}
        if method != "vanilla":
            tags |= {"teacher": teacher, "teacher_checksum": "c" * 64}
        figures = {
            "final/last": value,
            "final/best_selected_on_test": value + 0.5,
            "final/train_seconds": 7200.0,
            **metrics,
        }
        written = {"tuning": "False", "repetition": str(seed), **{key: str(param) for key, param in params.items()}}
        made.append(Tracked(run_id, "1", run_id, status, False, tags, figures, written, seed))
    return made


def frame(tracked: Iterable[Tracked]) -> pd.DataFrame:
    """The frame of a context."""
    kept = list(tracked)
    params = pd.DataFrame([{f"param.{key}": value for key, value in run.params.items()} for run in kept])
    return pd.concat([results.frame(kept), params], axis=1)


def context(tracked: Sequence[Tracked] = (), made: Plan | None = None, others: Sequence[Tracked] = (),
            epochs: pd.DataFrame | None = None) -> Context:  # fmt: skip
    """A context of these runs of the plan, and of other runs on the same images."""
    given = Context(
        plan=made or plan(),
        dataset="cifar100",
        tracked=[*tracked, *others],
        frame=frame(tracked),
        teachers={},
        runs=Path("runs"),
        data_root=Path("data"),
    )
    if epochs is not None:
        given.__dict__["epochs"] = epochs
    return given


def tables(blocks: Iterable[Block]) -> dict[str, Table]:
    """The tables of a section by name."""
    return {block.name: block.table for block in blocks if isinstance(block, Listing)}


def drawings(blocks: Iterable[Block]) -> dict[str, Figure]:
    """The figures of a section by name."""
    return {block.name: block.figure for block in blocks if isinstance(block, Drawing)}


def words(blocks: Iterable[Block]) -> str:
    """The text of a section."""
    return "\n".join(block.text for block in blocks if isinstance(block, Text))


def commands(blocks: Iterable[Block]) -> str:
    """The commands of a section."""
    return "\n".join(block.command for block in blocks if isinstance(block, Command))


def rows(table: Table) -> list[dict[str, Any]]:
    """The fields of every row."""
    return [dict(row.fields) for section in table.sections for row in section.rows]


def shown(table: Table) -> dict[str, dict[str, str]]:
    """Cells by the row's first, and by column."""
    headers = [column.header for column in table.columns]
    return {
        row.cells[0].text: dict(zip(headers, (cell.text for cell in row.cells), strict=True))
        for section in table.sections
        for row in section.rows
    }


def check_drawn(figure: Figure) -> None:
    """Every axis of data has its labels, no text leaves the canvas, and none stands on another."""
    for axes in figure.axes:
        if axes.get_visible() and axes.axison and axes.get_label() != "<colorbar>":
            assert axes.get_xlabel()
            assert axes.get_ylabel()
    assert not unreadable(figure)
