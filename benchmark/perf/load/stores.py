"""The time of commands that look, in stores of more and more runs on the same images."""

from __future__ import annotations

import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark import machine
from benchmark.analysis.table import Cell, Column, Row, Table

_CHOICE = ("digits", "--profile", "smoke", "--seeds", "3")
_STUDY = ("benchmark.study", "sdd_beta", "--profile", "smoke", "--confirm", "1", "--workers", "1")
#: by the row's label; the second status finds what the first remembered
COMMANDS: dict[str, tuple[str, ...]] = {
    "status, the first": ("benchmark", "status", *_CHOICE),
    "status": ("benchmark", "status", *_CHOICE),
    "run, nothing to train": ("benchmark.run", *_CHOICE),
    "report": ("reports", *_CHOICE),
    "study, nothing left": _STUDY,
}
#: tables that hold a run, by their column of its id
_TABLES = {
    **dict.fromkeys(("runs", "tags", "params", "latest_metrics", "metrics"), "run_uuid"),
    "inputs": "destination_id",
}


@dataclass(frozen=True)
class _Taken:
    """What a command took, in seconds."""

    wall: float
    cpu: float


def measure(scratch: Path, sizes: Sequence[int], console: Console) -> dict[str, bytes]:
    """Train a suite and a study of a few seconds, copy their runs until a store has so many, and time each command."""
    base = scratch / "base"
    console.print("Training the 27 runs of digits (smoke) and the study sdd_beta ...")
    for command in (COMMANDS["run, nothing to train"], _STUDY):
        _run(command, base)
    taken: dict[str, dict[int, _Taken]] = defaultdict(dict)
    for size in [0, *sizes]:
        runs = scratch / "runs"
        shutil.copytree(base, runs)
        (runs / "known-runs.json").unlink(missing_ok=True)
        fill(runs / "mlflow.db", size)
        for label, command in COMMANDS.items():
            taken[label][size] = _run(command, runs)
            console.print(
                f"{size:>7,} more runs: {label}: {taken[label][size].wall:.1f} s, {taken[label][size].cpu:.1f} CPU-s"
            )
        shutil.rmtree(runs)
    return {"load-stores.md": to_table(taken, sizes).to_markdown().encode()}


def _run(command: Sequence[str], runs: Path) -> _Taken:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", *command, "--runs", str(runs)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Taken(time.monotonic() - started, cpu)


def to_table(taken: dict[str, dict[int, _Taken]], sizes: Sequence[int]) -> Table:
    """Tabulate by command: seconds in the small store, and how many more in the others."""
    columns = [Column("Command", "left"), Column("alone"), *(Column(f"+{size:,} runs") for size in sizes)]
    rows = []
    for label, of_size in taken.items():
        alone = of_size[0]
        more = [f"{of_size[size].wall - alone.wall:+.1f} ({of_size[size].cpu - alone.cpu:+.1f})" for size in sizes]
        rows.append(Row.of(label, f"{alone.wall:.1f} ({alone.cpu:.1f})", *map(Cell, more), command=label))
    return Table.of_rows(
        "Commands that look, in stores of many runs on the same images.",
        f"Seconds, and CPU-seconds in brackets: with the plan's own runs alone, start-up included, and how many more"
        f" in a store that holds so many others, of which three in five are a study's."
        f" {machine.describe_device(_cpu())}.",
        tuple(columns),
        rows,
    )


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def fill(database: Path, count: int, seed: int = 0) -> None:
    """Add runs to a store: copies of those it holds, with ids, signatures and seeds of their own.

    Three in five are marked as trials of a study, one in five has another learning rate. The store must have been made
    by MLflow; this is for measurements only.
    """
    drawn = random.Random(seed)
    now = int(time.time() * 1000)
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("pragma synchronous = off")
        models = [row[0] for row in store.execute("select run_uuid from tags where key='role' and value='student'")]
        held = {model: _rows(store, model) for model in models}
        batch: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number in range(count):
            model = drawn.choice(models)
            for table, row in _copied(held[model], model, number, drawn):
                if table == "runs":  # one a minute, the last an hour ago
                    row["start_time"] = now - 3_600_000 - (count - number) * 60_000
                batch[table].append(row)
            if number % 1000 == 999 or number == count - 1:
                for table, rows in batch.items():
                    names = list(rows[0])
                    places = ", ".join(f":{name}" for name in names)
                    store.executemany(f"insert into {table} ({', '.join(names)}) values ({places})", rows)
                batch.clear()


def _rows(store: sqlite3.Connection, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for table, column in _TABLES.items():
        cursor = store.execute(f"select * from {table} where {column} = ?", (run_id,))
        names = [one[0] for one in cursor.description]
        found += [(table, dict(zip(names, row, strict=True))) for row in cursor]
    return found


def _copied(
    rows: Sequence[tuple[str, dict[str, Any]]], model: str, number: int, drawn: random.Random
) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a new run that differs from its model in id, signature, seed and perhaps in a setting."""
    run_id, seed = f"{drawn.getrandbits(128):032x}", str(100 + number % 50)
    changed = {
        ("tags", "signature"): f"{drawn.getrandbits(64):016x}",
        ("tags", "seed"): seed,
        ("params", "repetition"): seed,
        ("params", "tuning"): str(number % 5 < 3),
        **({("params", "recipe.lr"): "0.1"} if number % 5 == 3 else {}),
    }
    copies = []
    for table, row in rows:
        copy = {name: run_id if value == model else value for name, value in row.items()}
        if (table, row.get("key")) in changed:
            copy["value"] = changed[table, row["key"]]
        if table == "inputs":
            copy["input_uuid"] = f"{drawn.getrandbits(128):032x}"
        copies.append((table, copy))
    return copies
