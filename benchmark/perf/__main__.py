"""Measure the released training iteration against ours: `python -m benchmark.perf --quick --only losses,step`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmark import command_line, files, machine
from benchmark.config import Precision
from benchmark.errors import UserError, among
from benchmark.execution import progress
from benchmark.perf import apart, measurements
from benchmark.perf.base import Measurement, Setting
from benchmark.perf.figure import ratio_bars
from benchmark.perf.measure import cpu_seconds, machine_busy_seconds
from benchmark.perf.report import Result, describe, left_out, provenance, ratio_text, shown, slug, to_json, to_table


def parser() -> command_line.Parser:
    """Define the command's arguments."""
    made = command_line.Parser("python -m benchmark.perf", description=__doc__)
    made.add_argument(
        "--quick", action="store_true", help="smaller and fewer measurements: about two minutes on two cores"
    )
    made.add_argument(
        "--only",
        metavar="NAME,...",
        help="only these measurements, from: " + ", ".join(one.name for one in measurements.in_order()),
    )
    made.add_argument(
        "--threads", type=command_line.parallel, metavar="N", help="threads of both loops (default: all cores)"
    )
    made.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: auto)")
    made.add_argument(
        "--out",
        type=command_line.folder,
        default="runs/perf",
        metavar="DIR",
        help="folder of the results (default: runs/perf)",
    )
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code: 1 when a measurement ended early."""
    given = parser().parse_args(arguments)
    chosen = selected(given.only)
    device = torch.device(command_line.resolve_device(given.device))
    threads = machine.available_cores() if given.threads is None else given.threads
    writable(given.out)
    slowdown = machine.bf16_slowdown() if device.type == "cpu" else 0.0
    precisions: tuple[Precision, ...] = ("fp32",) if slowdown > machine.SLOW_BF16 else ("fp32", "bf16")
    setting = Setting(device, threads, given.quick, precisions)
    flags = machine.command_line() if arguments is None else " ".join(["python -m benchmark.perf", *arguments])
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
    console.print(table.to_rich())
    contents = {"json": to_json(about, results).encode(), "md": table.to_markdown().encode()}
    if any(row.ratio for result in results for row in result.rows):
        contents |= ratio_bars(results, describe(about))
    for kind, content in contents.items():
        path = given.out / f"perf-{slug(str(about['device']))}.{kind}"
        files.write(path, content)
        console.print(str(path), soft_wrap=True)
    return 1 if any(result.failure for result in results) else 0


def selected(names: str | None) -> list[Measurement]:
    """Select measurements by comma-separated names, in the table's order; all of them without names.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if names is None:
        return measurements.in_order()
    wanted = command_line.words(names)
    known = {measurement.name: measurement for measurement in measurements.in_order()}
    for name in wanted:
        if name not in known:
            raise UserError(f"--only: no measurement '{name}'{among(name, known)}")
    if not wanted:
        raise UserError(f"--only: name one or more of {', '.join(known)}")
    return [measurement for name, measurement in known.items() if name in wanted]


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


if __name__ == "__main__":
    command_line.run(main)
