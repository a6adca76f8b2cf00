"""The command: what it refuses, and what it writes."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from rich.console import Console

import benchmark.perf.__main__ as module
from benchmark import command_line, machine
from benchmark.perf import apart, base, measurements, report, workload
from benchmark.perf.base import Measurement, Setting, SideBySide, counted, throughput, timed
from benchmark.perf.measure import Samples, Task
from benchmark.perf.measurements import memory
from benchmark.perf.report import Result
from tests.processes import exit_code, heard, pipe, start

NAMES = ["losses", "head", "teacher", "step", "cohort", "methods", "cache", "counts", "augmentation", "loader",
         "epoch", "processes", "memory"]  # fmt: skip


def test_a_device_that_is_slow_at_bf16_has_no_rows_of_it_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Setting] = []

    def measure(setting: Setting) -> Iterator[SideBySide]:
        seen.append(setting)
        yield counted("a", "operators", 2, 1)

    fake = Measurement("fake", "Fake", "Counts.", 1, 1, measure)
    monkeypatch.setitem(base.registry._entries, "fake", fake)
    monkeypatch.setattr(machine, "bf16_slowdown", lambda: 5.57)
    monkeypatch.setattr(machine, "cpu_capability", lambda: "AVX2")
    _, text = command("--quick", "--only", "fake", "--device", "cpu", "--threads", "1", "--out", str(tmp_path))
    assert seen[0].precisions == ("fp32",)
    reason = "Rows of a bf16 teacher are left out: on this CPU (AVX2) a convolution takes 5.6 times as long"
    table = next(tmp_path.glob("*.md")).read_text()
    assert reason in text
    assert reason in table
    assert ", AVX2, 1 thread, " in table


def command(*arguments: str) -> tuple[int, str]:
    text = io.StringIO()
    threads = torch.get_num_threads()
    try:
        code = module.main(arguments, Console(file=text, width=140, markup=False, highlight=False))
    finally:
        torch.set_num_threads(threads)
    return code, text.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "losses,stp"], "error: --only: no measurement 'stp'; did you mean 'step'? known: "),
        (["--only", ","], "error: --only: name one or more of losses, head"),
        (["--threads", "0"], "error: argument --threads: must be a whole number from 1 to 1,024"),
        (["--threads", "two"], "error: argument --threads: must be a whole number"),
        (["--device", "tpu"], "error: --device tpu: no such device"),
        (["--quik"], "error: unknown argument '--quik'; did you mean '--quick'?"),
        (["--out", "/proc/perf"], "error: --out /proc/perf: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["perf", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command_line.run(module.main)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_every_measurement_is_registered_in_the_order_of_the_table_and_defined() -> None:
    assert [one.name for one in measurements.in_order()][: len(NAMES)] == NAMES
    for one in measurements.in_order():
        assert len(one.definition) > 80, one.name
        assert one.quick_s <= one.full_s
    assert sum(one.quick_s for one in measurements.in_order()) <= 150
    assert list(measurements.ORDER) == NAMES


@pytest.mark.processes
def test_the_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = functools.cache(workload.random_teacher)  # one for all three methods and both loops
    monkeypatch.setattr(workload, "random_teacher", lambda *given: copy.deepcopy(made(*given)))
    code, text = command("--quick", "--only", "counts", "--threads", "1", "--device", "cpu", "--out", str(tmp_path))
    assert code == 0
    files = {path.suffix: path for path in tmp_path.iterdir()}
    assert files.keys() == {".json", ".md", ".png", ".svg"}
    assert all(path.name.startswith("perf-cpu-") for path in files.values())
    assert all(str(path) in text for path in files.values())
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    drawn = "".join(ET.parse(files[".svg"]).getroot().itertext())
    assert "Operators and host reads of an iteration" in drawn
    content = json.loads(files[".json"].read_text())
    about = content["machine"]
    assert about["threads"] == 1
    assert about["quick"] is True
    assert about["torch"] == torch.__version__
    assert about["flags"][:4] == ["python", "-m", "benchmark.perf", "--quick"]
    assert {"device", "cores", "git_commit", "git_dirty", "date", "load_average_1_min"} <= about.keys()
    (counts,) = content["measurements"]
    rows = {(row["label"], row["unit"]): row for row in counts["rows"]}
    assert len(rows) == 6
    for (label, unit), row in rows.items():
        if unit == "host reads":
            assert row["ours"]["median"] == 0, label
            assert row["reference"]["median"] >= 5, label
            assert row["ratio"] is None
        else:
            assert row["ratio"]["medians"] > 1.1, label
            assert 100 < row["ours"]["median"] < row["reference"]["median"] < 2000, label
    table = files[".md"].read_text()
    assert "| resnet32x4 → resnet8x4, SD-KD, host reads | 7 | 0 | **none left** |" in table


def dies() -> dict[str, Task]:
    """The task of a side whose process is killed, as for want of memory."""
    return {"": partial(os._exit, 1)}


@pytest.mark.processes
def test_a_process_that_dies_takes_its_measurement_with_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(setting: Setting) -> Iterator[SideBySide]:
        yield counted("before", "operators", 4, 2)
        with apart.apart(setting, {"ours": dies}) as tasks:
            tasks["ours"]()

    for name in ("dying", "dying_too"):
        one = Measurement(name, name, "Counts.", 1, 1, measure)
        monkeypatch.setitem(base.registry._entries, name, one)
    code, text = command("--quick", "--only", "dying,dying_too", "--threads", "1", "--device", "cpu",
                         "--out", str(tmp_path))  # fmt: skip
    assert code == 1
    assert "ended early: BrokenProcessPool" in text
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert all(one["failure"].startswith("BrokenProcessPool") for one in content["measurements"])
    assert [[row["label"] for row in one["rows"]] for one in content["measurements"]] == [["before"], ["before"]]


@pytest.fixture
def failing() -> Iterator[Measurement]:
    def measure(setting: Setting) -> Iterator[SideBySide]:
        yield counted("before", "operators", 4, 2)
        raise RuntimeError("out of\nmemory")

    one = Measurement("failing", "Fails", "fails", 1, 1, measure)
    base.registry.add("failing", one)
    yield one
    base.registry.remove("failing")


def test_a_measurement_that_fails_loses_only_what_it_had_left(failing: Measurement, tmp_path: Path) -> None:
    code, text = command("--quick", "--only", "failing", "--threads", "1", "--out", str(tmp_path))
    assert code == 1
    assert "failing ended early: RuntimeError: out of memory" in text
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert content["measurements"][0]["failure"] == "RuntimeError: out of memory"
    assert len(content["measurements"][0]["rows"]) == 1


def test_the_table_shows_units_ratios_and_spread() -> None:
    slow, fast = Samples((0.5, 0.6, 0.7), (1.0, 1.2, 1.4)), Samples((0.2, 0.3, 0.2), (0.25, 0.3, 0.2))
    rows = [timed("step", slow, fast), throughput("loader", slow, fast, images=60), counted("peak", "MiB", 1500, 2000)]
    about = report.provenance(Setting(torch.device("cpu"), 2, quick=False), ["perf"])
    one = Measurement("x", "Title", "Definition.", 1, 1, lambda setting: iter(rows))
    text = report.to_table(about, [Result(one, rows)]).to_markdown()
    assert "| step | 600 ms | 200 ms | **3.00×** | 2.25-3.00 | 2.50× | 4.80× | 3 |" in text
    assert "| loader | 100 images/s | 300 images/s | **3.00×** |" in text
    assert "| peak | 1,500 MiB | 2,000 MiB | **0.75×** |  |  |  |  |" in text
    assert "- Title: Definition." in text
    assert "other processes" not in text
    beside = report.to_table({**about, "cores": 2}, [Result(one, rows, other_cores=0.9)]).to_markdown()
    assert "- Title: other processes used 0.9 of the 2 cores meanwhile" in beside


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00000123, "1.23 µs"), (0.0123, "12.3 ms"), (0.66, "660 ms"), (1.234, "1.23 s"), (75, "75.0 s")],
)
def test_seconds_are_shown_with_three_digits(seconds: float, text: str) -> None:
    assert report.shown(base.Side(seconds, seconds), "s") == text


def touch(channel: Connection) -> None:
    """Say how much 64 MiB add to the peak, in a process whose peak is what it holds."""
    before = memory.resident_peak()
    kept = torch.ones(2**24)
    channel.send(memory.resident_peak() - before)
    del kept


def test_peak_memory_sees_what_was_touched() -> None:
    ours, theirs = pipe()
    process = start(touch, theirs)
    assert 2**25 < heard(ours) < 2**28
    assert exit_code(process) == 0
