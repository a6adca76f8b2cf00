"""Nothing is sent or fetched unasked: a suite trains, and networks are made, while connections are refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import models

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
from benchmark import run

code = run.main([suite, "--profile", "smoke", "--runs", runs, "--engine", "inline"], Console())
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
def test_a_suite_trains_without_a_connection(tmp_path: Path, runs_folder: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SUITE))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(TELLING)}
    words = [str(tmp_path / name) for name in ("tiny.yaml", runs_folder.name, "noted.json")]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "noted.json").read_text()) == {"code": 0, "asked": []}


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_no_weights_are_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        pytest.fail(f"asks for {arguments}")

    for place, what in ((socket, "getaddrinfo"), (socket.socket, "connect")):
        monkeypatch.setattr(place, what, refused)
    models.create(name, 10, 32)
