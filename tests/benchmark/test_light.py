"""What a command imports before its arguments are accepted, how long that takes, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
from rich.console import Console

import benchmark
from benchmark import __main__ as looking
from benchmark import process, run, study
from benchmark.perf import __main__ as perf
from benchmark.perf.load import __main__ as load
from benchmark.perf.simulate import __main__ as simulate
from reports import __main__ as reports
from tests import footprint

PARSERS = {module.__name__: module.parser for module in (looking, run, study, reports, perf, load, simulate)}
LIGHT = [
    "benchmark pack --help", "benchmark pack home digits --methods kdd", "benchmark merge none.001",
    "benchmark --version", "benchmark status --help", "benchmark list", "benchmark show sdd_kdd",
    "benchmark teachers import . cifar10", "benchmark.run --help", "benchmark.run digits --mthods kd",
    "benchmark.run cub --methods kdd", "benchmark.run cub --pairs resnet8x5:resnet8",
    "benchmark.run cub --profile smke", "benchmark.run digits --set sdd.bta=4", "benchmark status --set recipe.epoch=3",
    "benchmark.run digits --device tpu", "benchmark.study", "benchmark.study sdd_bta", "reports --list",
    "reports cub --sections verdct", "benchmark.perf --only stp", "benchmark.perf.load --help",
    "benchmark.perf.simulate --workers x",
]  # fmt: skip
LONGEST = "benchmark list"


@pytest.mark.processes
def test_help_lists_and_mistakes_import_nothing_heavy_and_take_half_a_second() -> None:
    """Seen before: 7 to 9 CPU-seconds and 958 MiB, for a `--help`."""
    start_s = footprint.start_s()
    others = [words for words in LIGHT if words != LONGEST]
    for commands in ([LONGEST], *(others[first::4] for first in range(4))):
        # several take no longer together, in one process, than one may
        ran = footprint.of_all([words.split() for words in commands])
        assert ran.heavy == set(), commands
        assert "Traceback" not in ran.stderr, commands
        assert ran.cpu_s < 10 * start_s, (commands, ran.cpu_s, start_s)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_has_a_help_text(name: str) -> None:
    for parser in parsers(PARSERS[name]()):
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{parser.prog}: {action.option_strings or action.dest}"


def test_a_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert looking.main([], Console()) == 2
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m benchmark") and "status" in said


def test_the_version_has_the_commit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def said(commit: str, dirty: bool, *words: str) -> str:
        monkeypatch.setattr(process, "git_state", lambda: (commit, dirty))
        with pytest.raises(SystemExit) as ended:
            run.main([*words, "--version"], Console())
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert said("1a2b3c4d5e6f7a8b", False) == f"{benchmark.__version__}, commit 1a2b3c4d5e6f\n"
    assert said("1a2b3c4d5e6f7a8b", True, "digits") == f"{benchmark.__version__}, commit 1a2b3c4d5e6f (changed)\n"
    assert said("unknown", True) == f"{benchmark.__version__}, installed without git: the commit is unknown\n"
