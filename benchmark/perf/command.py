"""Measure the released training iteration against ours, side by side."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmark import command_line, files, machine, process
from benchmark.config import Precision
from benchmark.errors import UserError
from benchmark.execution import progress
from benchmark.perf import apart, measurements
from benchmark.perf.base import Measurement, Setting
from benchmark.perf.figure import ratio_bars
from benchmark.perf.measure import cpu_seconds, machine_busy_seconds
from benchmark.perf.report import Result, describe, left_out, provenance, ratio_text, shown, slug, to_json, to_table


def command(given: argparse.Namespace, names: Sequence[str], arguments: Sequence[str] | None, console: Console) -> int:
    """Take the named measurements and write their tables and figure; return the exit code."""
    chosen = [measurement for measurement in measurements.in_order() if measurement.name in names]
    device = torch.device(command_line.resolve_device(given.device))
    threads = process.available_cores() if given.threads is None else given.threads
    writable(given.out)
    slowdown = machine.bf16_slowdown() if device.type == "cpu" else 0.0
    precisions: tuple[Precision, ...] = ("fp32",) if slowdown > machine.SLOW_BF16 else ("fp32", "bf16")
    setting = Setting(device, threads, given.quick, precisions)
    flags = process.command_line() if arguments is None else " ".join(["python -m benchmark.perf", *arguments])
    about = {**provenance(setting, flags.split()), "bf16_slowdown": round(slowdown, 2)}
    machine.set_numerics(device, threads)
    console.print(describe(about), soft_wrap=True)
    for note in left_out(about):
        console.print(note, soft_wrap=True)
    print_plan(chosen, setting, console)
    try:
        results = [run(one, setting, console, f"[{place}/{len(chosen)}]") for place, one in enumerate(chosen, start=1)]
    finally:
        apart.close()
    table = to_table(about, results)
    console.print()
    table.show(console, f"perf-{slug(str(about['device']))}.md below")
    contents = {"json": to_json(about, results).encode(), "md": table.to_markdown().encode()}
    if any(row.ratio for result in results for row in result.rows):
        contents |= ratio_bars(results, describe(about))
    for kind, content in contents.items():
        path = given.out / f"perf-{slug(str(about['device']))}.{kind}"
        files.write(path, content)
        console.print(str(path), soft_wrap=True)
    return 1 if any(result.failure for result in results) else 0


def writable(folder: Path) -> None:
    """Make the results folder and check that it is writable, before minutes of measuring. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".perf").touch()
        (folder / ".perf").unlink()
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}; name a folder that can be written") from error


def print_plan(chosen: Sequence[Measurement], setting: Setting, console: Console) -> None:
    """Print the measurements and about how long each takes."""
    total = 0.0
    for measurement in chosen:
        seconds = setting.choose(measurement.quick_s, measurement.full_s)
        total += seconds
        console.print(f"  {measurement.name:<13} {measurement.title}, about {progress.duration(seconds)}")
    console.print(f"About {progress.duration(total)} on two CPU cores without other load.")


def run(measurement: Measurement, setting: Setting, console: Console, place: str) -> Result:
    """Take one measurement; an error ends this measurement early, and not the others."""
    console.print(f"{place} {measurement.name}")
    result = Result(measurement)
    started, own, busy = time.monotonic(), cpu_seconds() + apart.cpu_seconds(), machine_busy_seconds()
    try:
        for row in measurement.measure(setting):
            result.rows.append(row)
            sides = f"{shown(row.reference, row.unit)} to {shown(row.ours, row.unit)}"
            console.print(f"    {row.label}: {sides}, {ratio_text(row)}", soft_wrap=True)
    except Exception as error:
        result.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        console.print(f"    ended early: {result.failure}", style="red", soft_wrap=True)
    result.seconds = time.monotonic() - started
    if busy is not None:
        others = (machine_busy_seconds() or busy) - busy - (cpu_seconds() + apart.cpu_seconds() - own)
        result.other_cores = max(0.0, others / result.seconds)
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()  # free the memory for the next measurement
    console.print(f"    took {progress.duration(result.seconds)}; other processes used {result.other_cores:.1f} cores")
    return result
