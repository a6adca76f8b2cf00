"""Arguments of every command, up to where it would train, serve or draw."""

from __future__ import annotations

import io
import random
from pathlib import Path

from rich.console import Console

from benchmark import __main__ as looking
from benchmark import command_line, run, study
from benchmark.bundles import pieces
from benchmark.commands import train
from benchmark.perf import __main__ as perf
from reports import __main__ as reports
from reports import build
from reports import command as reporting
from studies import command as studying
from studies import questions
from tests.fuzz import nasty
from tests.fuzz.kinds.assignments import assignment

SHARE = 2.0
OPTIONS = (
    "--weights", "--fp16", "--piece-mb", "--claims",
    "--pairs", "--methods", "--seeds", "--profile", "--set", "--amp", "--compile", "--cache", "--runs", "--data",
    "--device", "--workers", "--threads", "--engine", "--ray-address", "--cache-gb", "--dry-run", "--retry-failed",
    "--offline", "--deadline", "--suite", "--pair", "--trials", "--timeout", "--confirm", "--storage", "--fresh",
    "--show", "--join", "--sections", "--compare", "--out", "--list", "--only", "--port", "--dataset", "--quick",
    "--help",
)  # fmt: skip
WORDS = (
    "digits", "folder", "smoke", "kd", "vanilla,kd", "resnet8:resnet8_half", "resnet8x2:resnet8_half", "cpu",
    "inline", "local", "runs", "data", "1", "2", "0.5", "sdd_beta", "sdd_scales", "comparison", "kd,sdd_kd", "list",
    "import", "resnet8x4", "sdd_kd", "none.yaml",
)  # fmt: skip
COMMANDS = ("run", "study", "reports", "perf", "list", "show", "status", "prepare", "teachers", "export", "pack",
            "merge", "ui")  # fmt: skip


def generate(rng: random.Random) -> list[str]:
    words = [rng.choice(COMMANDS)]
    if rng.random() < 0.8:
        words.append(rng.choice(WORDS))
    for _ in range(rng.randrange(5)):
        draw = rng.random()
        option = rng.choice(OPTIONS) if draw < 0.9 else nasty.changed_text(rng, rng.choice(OPTIONS))
        words.append(option)
        if option == "--set":
            words.append(assignment(rng))
        elif rng.random() < 0.7:
            words.append(rng.choice(WORDS) if rng.random() < 0.5 else nasty.word(rng))
    # a process cannot be given a NUL, nor characters that are no bytes
    return [word.replace("\0", "").replace("\ud800", "") for word in words]


def check(case: list[str], folder: Path) -> None:
    try:
        run_up_to_the_work(case, folder)
    except SystemExit as ended:
        if ended.code != 0:  # help was asked for
            raise


def run_up_to_the_work(case: list[str], folder: Path) -> None:
    """Run a command as far as it only looks."""
    if not case:
        return
    name, *words = case
    (folder / "FILE").touch()
    console = Console(file=io.StringIO(), markup=False, highlight=False, width=140)
    if name == "run":
        given = run.parser().parse_args(words)
        options = command_line.options_of(given)
        train.plan_of(given, options.device)
    elif name == "study":
        given = study.parser().parse_args(words)
        if given.study is None:
            return
        definition = questions.registry.get(given.study)()
        ground = studying.ground_of(given)
        studying.check(definition, ground)
        studying.study_title(definition, ground)
        command_line.options_of(given)
    elif name == "reports":
        given = reports.parser().parse_args(words)
        build.chosen_sections(given.sections)
        reporting.plans_of(given, given.suite)
    elif name == "perf":
        perf.selected(perf.parser().parse_args(words).only)
    elif name in COMMANDS:
        given = looking.parser().parse_args([name, *words])
        if name in ("list", "export", "merge", "ui", "teachers") or (name == "show" and "/" not in given.name):
            looking.main([name, *words], console)
        elif name == "pack":
            command_line.check_suite_is_named(given)
            pieces.check_target(given.to)
        elif name == "status":
            train.plan_of(given, command_line.options_of(given).device)
        elif name == "prepare":
            command_line.options_of(given)
