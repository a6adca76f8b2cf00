"""Measurements as a table and as JSON."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from benchmark import machine, process
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.perf.base import Measurement, Setting, Side, SideBySide, Unit

COLUMNS = (
    Column("", "left"),
    Column("reference"),
    Column("ours"),
    Column("ratio"),
    Column("quartiles"),
    Column("of minima"),
    Column("of CPU time"),
    Column("rounds"),
)
NOTES = (
    "Ratio: median of the reference over median of ours, above 1 is better (for counts: fewer); quartiles are of the"
    " ratios within each round; reference and ours took turns; where whole passes, steps or epochs are timed on a"
    " CPU, each runs in a process of its own, ours with freed memory kept as in its workers.",
    "Reference: the training iteration of SDD's released code, rewritten in plain PyTorch (NCHW, teacher in every"
    " step, unfused SGD, host reads where the released code has them), without its DistributedDataParallel wrapper.",
    "Images, labels and all weights are random; no data set and no trained teacher is needed.",
)

#: a measurement is marked when other processes used more than this share of the cores
OTHERS_MATTER = 0.15


@dataclass
class Result:
    """The rows of a measurement, and the reason when it ended early."""

    measurement: Measurement
    rows: list[SideBySide] = field(default_factory=list)
    failure: str | None = None
    seconds: float = 0.0
    #: average number of cores that other processes kept busy meanwhile
    other_cores: float = 0.0


def provenance(setting: Setting, flags: Sequence[str]) -> dict[str, Any]:
    """Collect the facts that the numbers depend on, ready for JSON."""
    commit, dirty = process.git_state()
    return {
        "device": machine.describe_device(setting.device),
        "cores": process.available_cores(),
        "threads": setting.threads,
        "cpu_capability": machine.cpu_capability(),
        #: runnable processes just before the start, this one included: above 1, others were running
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "versions": process.package_versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flags": list(flags),
        "quick": setting.quick,
        "batch_size": setting.batch_size,
    }


def slug(device: str) -> str:
    """Turn a device's description into a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def to_json(about: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Write all measurements as JSON: seconds for unit `s`, images per second, MiB or counts."""
    content = {
        "machine": dict(about),
        "measurements": [
            {
                "name": result.measurement.name,
                "title": result.measurement.title,
                "definition": result.measurement.definition,
                "seconds": round(result.seconds, 1),
                "other_cores": round(result.other_cores, 2),
                "failure": result.failure,
                "rows": [asdict(row) for row in result.rows],
            }
            for result in results
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_table(about: Mapping[str, Any], results: Sequence[Result]) -> Table:
    """Tabulate the measurements, one section each."""
    sections = [
        Section(result.measurement.title, "", tuple(table_row(row) for row in result.rows))
        for result in results
        if result.rows
    ]
    definitions = [f"{result.measurement.title}: {result.measurement.definition}" for result in results]
    failures = [f"{result.measurement.name} ended early: {result.failure}" for result in results if result.failure]
    failures += [
        f"{result.measurement.title}: other processes used {result.other_cores:.1f} of the {about['cores']} cores"
        " meanwhile, which slows several threads most: measure again"
        for result in results
        if result.other_cores > OTHERS_MATTER * about["cores"]
    ]
    notes = (*NOTES, *definitions, *left_out(about), *failures)
    return Table("Reference against ours, side by side", describe(about), COLUMNS, tuple(sections), notes)


def left_out(about: Mapping[str, Any]) -> list[str]:
    """Say why rows of a bf16 teacher are missing; empty when they are not."""
    slowdown = about.get("bf16_slowdown", 0.0)
    if slowdown <= machine.SLOW_BF16:
        return []
    return [
        f"Rows of a bf16 teacher are left out: on this CPU ({about['cpu_capability']}) a convolution takes"
        f" {slowdown:.1f} times as long in bf16 as in fp32."
    ]


def describe(about: Mapping[str, Any]) -> str:
    """Describe the machine in one line."""
    dirty = " + changes" if about["git_dirty"] else ""
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    return (
        f"{about['device']}, {about['cpu_capability']}, {threads}, load {about['load_average_1_min']} before the start,"
        f" torch {about['torch']}, commit {about['git_commit'][:8]}{dirty}, {about['date'][:16].replace('T', ' ')} UTC"
        f"{', quick' if about['quick'] else ''}"
    )


def table_row(row: SideBySide) -> Row:
    """Format a comparison as a row of the table."""
    ratio = row.ratio
    timed = row.reference.cpu_s is not None
    texts = [
        row.label,
        shown(row.reference, row.unit),
        shown(row.ours, row.unit),
        ratio_text(row),
        f"{ratio.low:.2f}-{ratio.high:.2f}" if timed and ratio else "",
        f"{ratio.minima:.2f}×" if timed and ratio else "",
        f"{ratio.cpu:.2f}×" if ratio and ratio.cpu is not None else "",
        str(row.rounds) if timed else "",
    ]
    fields: dict[str, Value] = {
        "label": row.label,
        "unit": row.unit,
        "reference": row.reference.median,
        "ours": row.ours.median,
        "ratio": ratio.medians if ratio else None,
    }
    return Row(tuple(Cell(text, bold=place == 3) for place, text in enumerate(texts)), fields)


def ratio_text(row: SideBySide) -> str:
    """Format the ratio of a row."""
    return f"{row.ratio.medians:.2f}×" if row.ratio else "none left"


def shown(side: Side, unit: Unit) -> str:
    """Format a median with its unit, to three digits."""
    value = side.median
    if unit in ("operators", "host reads"):
        return f"{value:,.0f}"
    if unit != "s":
        return f"{value:,.0f} {unit}"
    scale, name = next(((s, n) for s, n in ((1.0, "s"), (1e-3, "ms")) if value >= s), (1e-6, "µs"))
    digits = max(0, 2 - math.floor(math.log10(value / scale))) if value > 0 else 0
    return f"{value / scale:.{digits}f} {name}"
