"""A PostgreSQL server that a session of tests starts for itself, and an empty database of it for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: accounts that a server can run as where the tests run as root, which it refuses
OWNERS = ("postgres", "nobody")
OPTIONS = "-c fsync=off -c shared_buffers=16MB -c max_connections=40 -c unix_socket_directories="


def binaries() -> Path | None:
    """Folder of initdb and pg_ctl: the newest that Debian installs, or that of the path; None without PostgreSQL."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    return None if found is None else Path(found).parent


def account() -> pwd.struct_passwd | None:
    """The account that the server runs as, where that is another than the tests'."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name: one for one in pwd.getpwall()}
    return next(known[name] for name in OWNERS if name in known)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a server of its own, up to its slash; the user `bench` may do anything."""
    programs = binaries()
    if programs is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    owner = account()
    as_owner: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data = folder / "data"

    def run(program: str, *words: str) -> None:
        command = [str(programs / program), "-D", str(data), *words]
        # the server keeps what it is given as its output: a pipe would never end
        with (folder / "log").open("ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, cwd=folder, **as_owner)
        assert done.returncode == 0, (folder / "log").read_text()

    try:
        run("initdb", "--username=bench", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        run("pg_ctl", "-w", "-o", f"-p {port} -h 127.0.0.1 {OPTIONS}", "start")
        try:
            yield f"postgresql+psycopg://bench@127.0.0.1:{port}/"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql(postgresql_server: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty database."""
    import psycopg

    name = f"test_{abs(hash(request.node.nodeid)):x}"
    with psycopg.connect(postgresql_server.replace("+psycopg", "") + "postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")  # type: ignore[call-overload]
    return f"{postgresql_server}{name}"
