"""Ordinary mistakes at every command: one line, exit code 2, no traceback, and nothing written."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from benchmark import __main__ as looking
from benchmark import command_line, datasets, run, study
from benchmark.perf import __main__ as perf
from reports import __main__ as reports
from tests.conftest import SMALL_SUITE
from tests.mistakes import refusal

LONG = "n" * 300
COMMANDS = {"run": run.main, "bench": looking.main, "study": study.main, "reports": reports.main, "perf": perf.main}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("study sdd_beta --profile smok", r"suite 'digits' has no profile 'smok'; did you mean 'smoke'\?"),
        ("study sdd_beta --trials 0", "--trials: must be a whole number from 1 to 100,000, got '0'"),
        ("study sdd_beta --trials ²", "--trials: must be a whole number"),
        ("study sdd_beta --timeout nan", "--timeout: must be a number of seconds, 0 or more, got 'nan'"),
        ("study sdd_beta --timeout -1", "--timeout: must be a number of seconds"),
        ("study sdd_beta --confirm 1001", "--confirm: must be a whole number from 0 to 1,000"),
        (f"study sdd_beta --trials {'9' * 5000}", "--trials: must be a whole number from 1 to 100,000, got '9{99}…$"),
        (f"run digits --seeds 1{'0' * 30}", "--seeds: must be a whole number from 1 to 1,000"),
        ("run digits --threads 100000", "--threads: must be a whole number from 1 to 1,024"),
        ("run digits --workers 100000", "--workers: must be a whole number from 1 to 1,024"),
        ("run digits --cache-gb inf", "--cache-gb: must be a number of gigabytes, 0 or more, got 'inf'"),
        ("run digits --runs FILE", "--runs: '.*FILE': .*FILE is a file, not a folder"),
        ("run digits --runs FILE/below", "--runs: '.*FILE/below': .*FILE is a file, not a folder"),
        ("run digits --data FILE", "--data: .* is a file, not a folder"),
        ("reports digits --out FILE", "--out: .* is a file, not a folder"),
        ("bench export FILE", "FOLDER: .* is a file, not a folder"),
        (f"run digits --runs {LONG}", "--runs: .*cannot be a folder: File name too long"),
        (f"run digits --runs none/{LONG}", "--runs: .*a name has over 255 bytes"),
        ("run digits --runs LOOP", "--runs: .*cannot be a folder: Symlink loop"),
        ("run digits --runs \udcff", "--runs: .*its name is not text in UTF-8"),
        (f"run {LONG}.yaml", f"suite {LONG}.yaml: cannot be read: File name too long"),
        ("run LATIN.yaml", "suite .*LATIN.yaml: is not text in UTF-8"),
        ("run FOLDER.yaml", "suite .*FOLDER.yaml: is not a file"),
        ("run digits --set recipe.epochs=1000000000", "recipe.epochs: input should be less than or equal to 100000"),
        (f"run digits --set recipe.epochs={'9' * 5000}", "not valid YAML: .*cannot be read as int"),
        ("run digits --set recipe.batch_size=0", "recipe.batch_size: input should be greater than or equal to 1"),
        ("run digits --set kd.\udcff=1", "--set .*: the key is not text in UTF-8"),
        ("run digits --set recipe.lr=.nan", "recipe.lr: input should be a finite number"),
        ("run digits --set dkd.warmup_epochs=1000000", "dkd.warmup_epochs.*less than or equal to 100000"),
        ("run digits --set dkd.warmup_epochs=[{}]", "dkd.warmup_epochs.*"),
        ("run digits --set data.num_train=!!python/name:os", "the tag .* is not read here"),
        ("run folder --set data.image_size=1000000", "data.image_size: .*less than or equal to 4096"),
        ("run folder --set data.image_size=0", "data.image_size: .*greater than or equal to 8"),
        ("run folder --set data.num_workers=-1", "data.num_workers: .*greater than or equal to 0"),
        ("run folder --set data.memory_gb=.nan", "data.memory_gb: .*finite"),
        ("bench prepare digits --set data=3", "--set data: only data.FIELD=VALUE"),
        ("bench ui --port 70000", "--port: must be a whole number from 1 to 65,535"),
        ("bench pack home --methods kd", "--methods: name the suite that it chooses a part of"),
        ("bench pack home digitz", "digitz.*did you mean 'digits'"),
        ("bench pack home --piece-mb 0", "--piece-mb: must be a whole number from 1 to 100,000"),
        ("bench pack ..", r"\.\.: name a file: its pieces are FILE.001"),
        (f"bench pack {LONG}", "cannot be a file: .*too long"),
        ("bench merge none.001", "none.001 does not exist"),
        ("bench merge FILE", "FILE is not a piece of a bundle"),
        ("bench merge LOOP", "LOOP .*"),
        ("bench merge FOLDER.yaml", "FOLDER.yaml is a folder that holds no piece of a bundle"),
        (f"bench merge {LONG}", "cannot be read: File name too long"),
        ("perf --threads 0", "--threads: must be a whole number"),
    ],
    ids=lambda text: text[:60].encode("ascii", "backslashreplace").decode(),
)
def test_a_mistake_is_one_line(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "LOOP").symlink_to(tmp_path / "LOOP")
    (tmp_path / "LATIN.yaml").write_bytes("title: größe".encode("latin-1"))
    (tmp_path / "FOLDER.yaml").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    # a mistake that is not refused must not train
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("nothing was refused"))
    name, *arguments = words.split()
    said = refusal(COMMANDS[name], *arguments)
    assert re.search(message, said), said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_suite_file_cannot_name_a_place_outside(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**SMALL_SUITE, "name": "../up"}))
    assert "name: a name that starts with '.' or '-'" in refusal(run.main, str(path), "--runs", str(tmp_path / "runs"))


def test_more_runs_than_anybody_waits_for_are_refused() -> None:
    said = refusal(run.main, "cifar100", "--seeds", "1000")
    assert re.search(r"[\d,]+ runs are planned, at most 20,000 can be", said), said


def test_an_empty_argument_is_an_unknown_one() -> None:
    """Found by fuzzing: it ended in an IndexError."""
    assert refusal(reports.main, "digits", "").startswith("unknown argument ''")


def test_the_line_is_one_line_for_names_of_any_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "show", os.fsdecode(b"two\nlines \x1b[31m \xff")])
    with pytest.raises(SystemExit) as ended:
        command_line.run(looking.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: nothing is called 'two\\nlines \\x1b[31m \\udcff'; see")
    assert said.count("\n") == 1
