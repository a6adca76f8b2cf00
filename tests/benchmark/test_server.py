"""The tracking server that machines share: what it refuses to serve, how it is started, and what it tells workers."""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy.engine import make_url

from benchmark import tracking
from benchmark.commands import server
from benchmark.errors import UserError

#: tables that tell a service's database, as the service makes them
MLFLOW = "create table experiments (name text, artifact_location text); create table runs (id text);"
OPTUNA = "create table studies (id text); create table trials (id text);"


def database(path: Path, script: str, revision: str) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(f"create table alembic_version (version_num text); {script}")
        connection.execute("insert into alembic_version values (?)", [revision])
    connection.close()
    return path


def given(folder: Path, **other: object) -> argparse.Namespace:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    usual = {"runs": folder / "runs", "store": None, "host": "127.0.0.1", "port": port, "auth": False}
    return argparse.Namespace(**{**usual, **other})


class Started(Exception):
    """Where this process would become the server: its command and variables."""


@pytest.fixture
def becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(path: str, command: list[str], variables: dict[str, str]) -> None:
        raise Started(path, command, variables)

    monkeypatch.setattr(os, "execve", execve)


def test_it_serves_artifacts_and_hides_what_is_secret(
    becomes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = given(tmp_path, store=f"sqlite:///{tmp_path / 'new' / 'here.db'}")
    with pytest.raises(Started) as caught:
        server.serve(asked, Console())
    path, command, variables = caught.value.args
    assert path == sys.executable and command == server.server_command(
        tmp_path / "runs" / "server", "127.0.0.1", asked.port, False
    )
    words = " ".join(command)
    assert f"--serve-artifacts --artifacts-destination {tmp_path}/runs/server/artifacts" in words
    assert "basic-auth" not in words and "here.db" not in words  # the URL may hold a password, and anybody may see it
    assert variables["MLFLOW_BACKEND_STORE_URI"] == asked.store
    assert (variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"], variables["MLFLOW_DISABLE_TELEMETRY"]) == ("false", "true")
    assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{asked.port}\n" in capsys.readouterr().out


def test_lines_for_workers_name_their_variables_and_no_password() -> None:
    url = make_url("postgresql+psycopg://me:secret@there/name")
    lines = "\n".join(server.instructions(url, "http://here:5000", Path("/a/b c")))
    assert "secret" not in lines and "BENCH_CLAIMS=postgresql://me@there/name" in lines
    assert "MLFLOW_TRACKING_USERNAME=admin" in lines and """MLFLOW_TRACKING_PASSWORD="$(cat '/a/b c')\"""" in lines


def test_a_port_that_is_taken_and_a_host_that_is_no_ones_are_refused(becomes: None, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port \d+: Address already in use; choose"):
            server.serve(given(tmp_path, port=taken.getsockname()[1]), Console())
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.77, port"):
        server.check_port("192.0.2.77", 5000)


def test_a_database_that_it_cannot_serve_is_refused(becomes: None, tmp_path: Path) -> None:
    ours = tracking.newest_schema()
    elsewhere = "insert into experiments values ('digits', 'file:///a/artifacts/digits'), ('Default', '/b')"
    refused = {
        "name a database of its own": database(tmp_path / "studies.db", OPTUNA, "v3.2.0.a"),
        r"another version of MLflow \(its tables are old, here they are": database(tmp_path / "old.db", MLFLOW, "old"),
        r"folders of one machine \(digits\)": database(tmp_path / "here.db", f"{MLFLOW} {elsewhere}", ours),
    }
    for reason, path in refused.items():
        with pytest.raises(UserError, match=reason):
            server.check_store(make_url(f"sqlite:///{path}"))
    server.check_store(make_url(f"sqlite:///{database(tmp_path / 'served.db', MLFLOW, ours)}"))
    for url, reason in {
        "mysql://a/b": "do not share such a database",
        "postgresql://me:secret@127.0.0.1:1/none": r"me:\*\*\*@127\.0\.0\.1:1/none cannot be used: .*refused",
    }.items():
        with pytest.raises(UserError, match=reason):
            server.serve(given(tmp_path, store=url), Console())


def test_the_first_password_is_made_once_for_its_owner_alone(
    becomes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install the extra `server`"):
        server.serve(given(tmp_path, auth=True), Console())
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: name)
    folder = tmp_path / "runs" / "server" / "auth"
    passwords = []
    for _ in range(2):
        with pytest.raises(Started) as caught:
            server.serve(given(tmp_path, auth=True), Console())
        _, command, variables = caught.value.args
        passwords.append(variables["MLFLOW_AUTH_ADMIN_PASSWORD"])
        assert command[-2:] == ["--app-name", "basic-auth"]
    assert passwords[0] == passwords[1] and len(passwords[0]) > 30
    assert passwords[0] not in capsys.readouterr().out + " ".join(command)
    assert variables["MLFLOW_AUTH_CONFIG_PATH"] == str(folder / "basic_auth.ini")
    file = folder / "admin-password"
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o640)
    with pytest.raises(UserError, match=r"others can read .*admin-password"):
        server.guarded(file)
    file.unlink()
    (folder / "users.db").touch()
    with pytest.raises(UserError, match=r"admin-password is gone, and .*users\.db knows its password"):
        server.guarded(file)
