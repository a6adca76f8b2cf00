"""Memory, open files and threads of a command and its workers while it trains for long."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from benchmark.analysis.table import Column, Row, Table

_PERIOD_S = 0.5
_SUITE = {
    "title": "tiny",
    "data": {"name": "digits", "num_train": 256, "num_test": 128},
    "recipe": {"epochs": 1, "lr": 0.05, "batch_size": 64},
    "seeds": 1,
    "methods": {"vanilla": {}, "kd": {}, "sdd_kd": {}},
    "pairs": [{"teacher": "resnet8", "student": "resnet8_half"}],
}


@dataclass(frozen=True)
class Sample:
    """What a process holds at a time, in seconds since the command's start."""

    seconds: float
    memory_mib: float
    files: int
    threads: int


def measure(scratch: Path, epochs: int, cohorts: int, console: Console) -> dict[str, bytes]:
    """Train for many epochs, then in many cohorts, and watch the processes; return a figure and a table."""
    suite = scratch / "tiny.yaml"
    suite.write_text(yaml.safe_dump(_SUITE))
    common = [str(suite), "--runs", str(scratch / "runs"), "--workers", "2"]
    subprocess.run([sys.executable, "-m", "benchmark.run", *common], check=True, stdout=subprocess.DEVNULL)
    watched = {}
    trainings = {
        f"{epochs} epochs": ["--set", f"recipe.epochs={epochs}"],
        f"{cohorts} cohorts": ["--seeds", str(cohorts)],
    }
    for label, more in trainings.items():
        console.print(f"Training {label} ...")
        watched[label] = watch(["benchmark.run", *common, *more])
    table = to_table(watched)
    table.show(console, "the written table")
    return {"load-steady.svg": figure(watched), "load-steady.md": table.to_markdown().encode()}


def watch(command: Sequence[str]) -> dict[str, list[Sample]]:
    """Run a command of ours; sample it and the processes below it, by name: `command`, `worker 1`, ..."""
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    started = time.monotonic()
    names = {process.pid: "command"}
    samples: dict[str, list[Sample]] = {}
    while process.poll() is None:
        for pid in [process.pid, *children(process.pid)]:
            sample = look(pid, time.monotonic() - started)
            if sample is not None and (pid in names or "spawn_main" in _read(pid, "cmdline")):
                name = names.setdefault(pid, f"worker {len(names)}")
                samples.setdefault(name, []).append(sample)
        time.sleep(_PERIOD_S)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return samples


def children(pid: int) -> list[int]:
    """Ids of the processes that a process started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []


def look(pid: int, seconds: float) -> Sample | None:
    """Sample a process; None when it has ended."""
    try:
        fields = dict(line.split(":", 1) for line in _read(pid, "status").splitlines())
        open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Sample(seconds, int(fields["VmRSS"].split()[0]) / 1024, open_files, int(fields["Threads"]))
    except (OSError, KeyError):
        return None


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def thirds(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The second and the last third of the samples: start-up is over in both."""
    third = len(samples) // 3
    return samples[third : 2 * third], samples[2 * third :]


def to_table(watched: Mapping[str, Mapping[str, Sequence[Sample]]]) -> Table:
    """Tabulate medians of the second and of the last third of each training."""
    rows = []
    for label, by_process in watched.items():
        for name, samples in by_process.items():
            middle, last = thirds(samples)
            if not middle:
                continue
            pairs = [
                [statistics.median(getattr(one, field) for one in part) for part in (middle, last)]
                for field in ("memory_mib", "files", "threads")
            ]
            texts = [f"{pairs[0][0]:.0f} → {pairs[0][1]:.0f}", *(f"{a:g} → {b:g}" for a, b in pairs[1:])]
            rows.append(Row.of(label, name, f"{samples[-1].seconds:.0f}", *texts, training=label, process=name))
    columns = ("Training", "process", "seconds", "memory, MiB", "open files", "threads")
    return Table.of_rows(
        "What a command and its workers hold while they train.",
        "Medians in the second and in the last third of the time.",
        tuple(Column(name, "left" if place < 2 else "right") for place, name in enumerate(columns)),
        rows,
    )


def figure(watched: Mapping[str, Mapping[str, Sequence[Sample]]]) -> bytes:
    """Draw memory over time, a panel per training."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "load", "font.size": 8}):
        drawn = Figure(figsize=(7.6, 2.4), layout="constrained")
        for axes, (label, by_process) in zip(drawn.subplots(1, len(watched)), watched.items(), strict=True):
            for name, samples in by_process.items():
                axes.plot([one.seconds for one in samples], [one.memory_mib for one in samples], label=name)
            axes.set(title=label, xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
        target = io.BytesIO()
        drawn.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
