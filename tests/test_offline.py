"""Nothing is sent or fetched unasked: a suite trains, and networks are made, while connections are refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import models
from benchmark import __main__ as looking
from benchmark import datasets, run, study
from benchmark.errors import UserError
from benchmark.perf import __main__ as perf
from reports import __main__ as reports
from reports import pdf

#: a process of its own: MLflow sends nothing from a test anyway, which would prove nothing
COMMAND = """
import json, os, socket, sys, threading
from pathlib import Path

suite, runs, noted = sys.argv[1:]
asked = []

def note(what):
    def refused(*arguments, **named):
        asked.append(f"{what}{arguments[1:] if what == 'connect' else arguments}")
        raise OSError("no network here")
    return refused

socket.getaddrinfo = note("getaddrinfo")
socket.socket.connect = note("connect")
socket.socket.connect_ex = note("connect")

from rich.console import Console
from benchmark import __main__ as looking
from benchmark import run
from reports import __main__ as reports

chosen = [suite, "--profile", "smoke", "--runs", runs]
code = run.main([*chosen, "--engine", "inline"], Console())
code += looking.main(["prepare", "digits", "--runs", runs], Console())
code += looking.main(["status", *chosen], Console())
code += reports.main([*chosen, "--sections", "provenance,literature"], Console())
for thread in threading.enumerate():
    if thread is not threading.main_thread() and not thread.daemon:
        thread.join(5)
Path(noted).write_text(json.dumps({"code": code, "asked": asked}))
"""
SUITE = {
    "title": "tiny",
    "data": {"name": "digits"},
    "recipe": {"epochs": 1, "batch_size": 32},
    "seeds": 1,
    "methods": {"vanilla": {}},
    "pairs": [{"teacher": "resnet8", "student": "resnet8_half"}],
    "profiles": {"smoke": {"data": {"num_train": 64, "num_test": 60}}},
}
#: variables by which MLflow tells a test or a CI machine, and those that the package sets itself
TELLING = ("PYTEST", "CI", "GITHUB", "GITLAB", "JENKINS", "BUILD", "TRAVIS", "CIRCLE", "MLFLOW", "HF_", "DO_NOT_TRACK")


@pytest.mark.processes
def test_a_suite_is_trained_and_reported_without_a_connection(tmp_path: Path, runs_folder: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SUITE))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(TELLING)}
    clean["BENCH_OFFLINE"] = "1"
    datasets.create("digits", tmp_path, cache=runs_folder / "cache", render=True)  # it need not render them
    words = [str(tmp_path / name) for name in ("tiny.yaml", runs_folder.name, "noted.json")]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "noted.json").read_text()) == {"code": 0, "asked": []}


def test_a_report_is_set_without_packages_from_elsewhere() -> None:
    """Typst fetches what a document imports by itself, past Python's sockets."""
    assert "@preview" not in pdf.template().decode()


#: every command that loads images, by the arguments that ask for those of CIFAR-100
LOADING = {
    "run": (run, ["cifar100", "--pairs", "resnet32x4:resnet8x4"]),
    "study": (study, ["sdd_beta", "--suite", "cifar100"]),
    "prepare": (looking, ["prepare", "cifar100"]),
}


@pytest.mark.parametrize("said", ["option", "variable"])
@pytest.mark.parametrize("command", LOADING)
def test_offline_nothing_is_downloaded_and_what_is_missing_is_named(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(request: urllib.request.Request, timeout: float) -> None:
        asked.append(request.full_url)
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", opened)
    monkeypatch.delenv("BENCH_OFFLINE", raising=False)
    module, words = LOADING[command]
    words = [*words, "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    with pytest.raises(UserError, match="could not be downloaded"):
        module.main(words, Console(quiet=True))
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
    if said == "variable":
        monkeypatch.setenv("BENCH_OFFLINE", "1")
    with pytest.raises(UserError) as raised:
        module.main([*words, *(["--offline"] if said == "option" else [])], Console(quiet=True))
    archive = tmp_path / "data" / "cifar-100-python.tar.gz"
    assert f"{asked[0]} at {archive} (169 MB, md5 eb9058c3a382ffc7106e4002c42a8d85)" in str(raised.value)
    assert len(asked) == 1


def test_offline_is_an_option_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_OFFLINE", raising=False)
    for made, words in (
        *((module.parser(), []) for module in (run, study, reports, perf)),
        *((looking.parser(), [name]) for name in ("status", "teachers", "doctor", "ui", "list")),
        *((looking.parser(), [name, "digits"]) for name in ("prepare", "show", "export")),
    ):
        assert made.parse_args(words).offline is False
        assert made.parse_args([*words, "--offline"]).offline is True
        assert made.parse_args(["--offline", *words]).offline is True
        for value, is_on in (("1", True), ("0", False), ("", False)):
            monkeypatch.setenv("BENCH_OFFLINE", value)
            assert made.parse_args(words).offline is is_on
        monkeypatch.delenv("BENCH_OFFLINE")


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_no_weights_are_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        pytest.fail(f"asks for {arguments}")

    for place, what in ((socket, "getaddrinfo"), (socket.socket, "connect")):
        monkeypatch.setattr(place, what, refused)
    models.create(name, 10, 32)
