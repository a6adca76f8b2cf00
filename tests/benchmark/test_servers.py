"""`make ui` and `make dashboard` end with every process that they started, on SIGTERM and on Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from benchmark import tracking
from benchmark.commands import ui

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("servers")]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def members(session: int) -> list[str]:
    """The command lines of a session's processes."""
    shown = subprocess.run(["ps", "-o", "args=", "-s", str(session)], capture_output=True, text=True)
    return shown.stdout.splitlines()


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a session of its own, as a terminal would, until it answers; leave none of it behind."""
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **ui.SERVER_VARIABLES},
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield server
    finally:
        if members(server.pid):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ended(server: subprocess.Popen[bytes]) -> list[str]:
    """What is left of a server's processes, at most half a minute later."""
    for _ in range(300):
        server.poll()
        if not (left := [line for line in members(server.pid) if "defunct" not in line]):
            return []
        time.sleep(0.1)
    return left


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> tracking.Tracker:
    return tracking.Tracker(tmp_path_factory.mktemp("runs"))


def test_the_tracking_ui_ends_on_sigterm(tracker: tracking.Tracker, tmp_path: Path) -> None:
    """Ctrl-C takes the same way; it was tried by hand, since every start takes ten CPU-seconds."""
    port = free_port()
    with served(ui.server_command(tracker, port), port, tmp_path / "log") as server:
        assert len(members(server.pid)) > 1  # it starts others
        server.terminate()
        assert ended(server) == []


def test_the_command_gives_its_place_to_the_server(tracker: tracking.Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process between the two would have to pass signals on; it also held 740 MiB."""
    became = []
    monkeypatch.setattr(os, "execve", lambda *arguments: became.append(arguments))
    ui.serve(argparse.Namespace(runs=tracker.runs, port=5001), Console(quiet=True))
    ((path, command, variables),) = became
    assert path == sys.executable and command == ui.server_command(tracker, 5001)
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false" and variables["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_dashboard_ends_with_make(tmp_path: Path) -> None:
    """make passes SIGTERM to what it started: a shell between the two would end alone. Ctrl-C reaches all of them."""
    journal = tmp_path / "studies" / "one.journal"
    journal.parent.mkdir()
    optuna.create_study(storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))))
    port = free_port()
    program = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("optuna-dashboard is not installed")
    command = ["make", "-o", "install", "dashboard", f"BIN={Path(program).parent}", f"RUNS={tmp_path}"]
    with served([*command, f"ARGS=--port {port}"], port, tmp_path / "log") as server:
        server.terminate()
        assert ended(server) == []
