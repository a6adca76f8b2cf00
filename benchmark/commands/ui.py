"""MLflow's user interface on a runs folder."""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

from benchmark import saved_views, tracking
from benchmark.errors import UserError

#: saves two processes of one gigabyte: no background jobs are used here
SERVER_VARIABLES = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(given: argparse.Namespace, console: Console) -> int:
    """Start MLflow's server on the runs folder and print the addresses of the training runs."""
    tracker = tracking.open_existing(given.runs)
    if tracker is None:
        raise UserError(
            f"nothing is tracked under {given.runs}: run `make bench` first, or name the folder with --runs"
        )
    address = f"http://127.0.0.1:{given.port}"
    for name, identity in tracker.experiments().items():
        if not tracker.is_read_only:
            tracker.save_views(identity)
        console.print(f"{name}: {tracker.ui_address(identity, address)}", soft_wrap=True)
        if not name.startswith(saved_views.STUDIES):
            console.print(f"{name}, charts: {tracker.ui_address(identity, address, charts=True)}", soft_wrap=True)
    if not tracker.is_local:
        return 0
    console.print("Ctrl-C ends the server.")
    # the server takes the place of this process: SIGTERM and Ctrl-C reach it directly, and it ends with all it started
    sys.stdout.flush()
    os.execve(sys.executable, server_command(tracker, given.port), {**os.environ, **SERVER_VARIABLES})


def server_command(tracker: tracking.Tracker, port: int) -> list[str]:
    """The command that serves a runs folder on this machine."""
    return [
        sys.executable,
        *("-m", "mlflow", "server", "--backend-store-uri", tracker.uri, "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--default-artifact-root", str(tracker.runs / "artifacts")),
    ]
