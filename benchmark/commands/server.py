"""A tracking server for several machines: MLflow's, on PostgreSQL or a SQLite file, with the artifacts behind it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import secrets
import shlex
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from benchmark import databases, files, tracking
from benchmark.commands.ui import SERVER_VARIABLES
from benchmark.errors import UserError

#: MLflow's first user, who may do everything
ADMIN = "admin"
_EVERYWHERE = ("0.0.0.0", "::", "")
_EXAMPLES = "use postgresql://USER@HOST/NAME or sqlite:////PATH/mlflow.db"
#: hosts that may be asked for, as MLflow has them where none are named, before those of this server
_ALLOWED = "localhost:*,127.0.0.1:*,[::1]:*,192.168.*,10.*," + ",".join(f"172.{part}.*" for part in range(16, 32))
_USERS = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{users}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 60
"""


def serve(given: argparse.Namespace, console: Console) -> int:
    """Check the database and the port, print what workers need, and give this process's place to the server."""
    folder = given.runs.resolve() / "server"
    files.check_writable(folder)
    default = URL.create("sqlite", database=str(folder / "mlflow.db"))
    url = default if given.store is None else databases.parsed(given.store, "--store", _EXAMPLES)
    check_port(given.host, given.port)
    check_store(url)
    password = None
    variables = {**SERVER_VARIABLES, "MLFLOW_BACKEND_STORE_URI": url.render_as_string(hide_password=False)}
    if given.auth:
        password = folder / "auth" / "admin-password"
        variables |= guarded(password)
    name = platform.node() if given.host in _EVERYWHERE else given.host
    variables["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{_ALLOWED},{name},{name}:*"
    for line in instructions(url, f"http://{f'[{name}]' if ':' in name else name}:{given.port}", password):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if not given.auth and given.host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            "Whoever reaches this port may read, change and delete runs: AUTH=1 (--auth) asks for a password.",
            soft_wrap=True,
        )
    sys.stdout.flush()
    command = server_command(folder, given.host, given.port, given.auth)
    os.execve(sys.executable, command, {**os.environ, **variables})


def server_command(folder: Path, host: str, port: int, is_guarded: bool) -> list[str]:
    """The command that serves; the database, whose URL may hold a password, is named by a variable."""
    return [
        sys.executable,
        *("-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
        *(("--app-name", "basic-auth") if is_guarded else ()),
    ]


def instructions(url: URL, address: str, password: Path | None) -> list[str]:
    """Lines that say where the server is, what workers export, and how it ends."""
    lines = [f"Tracking server: {address}, on {url.render_as_string()}", "On every machine that trains or reads:"]
    lines.append(f"  export MLFLOW_TRACKING_URI={address}")
    if password is not None:
        lines += [
            f"  export MLFLOW_TRACKING_USERNAME={ADMIN}",
            f'  export MLFLOW_TRACKING_PASSWORD="$(cat {shlex.quote(str(password))})"',
            f"The password lies in {password}, which only you can read; copy it to the other machines as such a file.",
        ]
    if url.get_backend_name() == "postgresql":
        place = url.set(drivername="postgresql")._replace(password=None).render_as_string()  # `set` takes no None
        lines.append(f"  export BENCH_CLAIMS={shlex.quote(place)}    # leases, so that each run is trained once")
    else:
        lines.append("  export BENCH_CLAIMS=postgresql://USER@HOST/NAME    # leases, where several machines train")
    return [*lines, "Ctrl-C ends the server; training continues without it for --patience seconds."]


def check_port(host: str, port: int) -> None:
    """Raise UserError when the server could not listen there."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: {error.strerror}; name an address of this machine, or 0.0.0.0") from error
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port or --host (make: PORT,"
            " HOST)"
        ) from error


def check_store(url: URL) -> None:
    """Raise UserError for a database that cannot be reached, is of another service or version, or has files here."""
    if url.get_backend_name() == "sqlite" and not (file := Path(str(url.database))).exists():
        files.check_writable(file.parent, "name another with --store")
        return
    engine, place = databases.connected(url, "--store"), url.render_as_string()
    try:
        databases.refuse_other("MLflow", engine, "--store", "name a database of its own")
        if databases.service_of(engine) is None:
            return
        if (there := databases.revision(engine)) != (ours := tracking.newest_schema()):
            raise UserError(
                f"--store {place} was made by another version of MLflow (its tables are {there}, here they are {ours}):"
                " back it up and run `mlflow db upgrade URL`, install the version that made it, or name another"
            )
        if outside := _outside(engine):
            raise UserError(
                f"--store {place} has artifacts in folders of one machine ({', '.join(outside)}), where others would"
                " look for them in vain: name another database, and bring its runs there by `pack` and `merge`"
            )
    except SQLAlchemyError as error:
        raise UserError(f"--store {place} cannot be used: {databases.reason_of(error)}; {_EXAMPLES}") from error
    finally:
        engine.dispose()


def _outside(engine: Engine) -> list[str]:
    """The first experiments whose artifacts do not go through a server."""
    query = "select name from experiments where artifact_location not like 'mlflow-artifacts:%' and name <> 'Default'"
    with engine.connect() as connection:
        return [str(name) for name in connection.execute(text(f"{query} order by name limit 3")).scalars()]


def guarded(password: Path) -> Mapping[str, str]:
    """Variables of a server that asks for passwords; the admin's is made on first use, in a file of one's own.

    Raises:
        UserError: when others can read the file, or it is gone while the server's users are there.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise UserError("--auth: Flask-WTF is not installed; install the extra `server`")
    folder, users = password.parent, password.with_name("users.db")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not password.exists():
        if users.exists():
            raise UserError(
                f"{password} is gone, and {users} knows its password: bring it back, or delete {users} and start anew"
            )
        _write_private(password, secrets.token_urlsafe(24))
    if stat.S_IMODE(password.stat().st_mode) & 0o077:
        raise UserError(f"others can read {password}: change the password in MLflow, and chmod 600 the file")
    settings = password.with_name("basic_auth.ini")
    place = str(users).replace("%", "%%")  # which the reader of the file would take for its own
    files.write(settings, _USERS.format(users=place, admin=ADMIN).encode())
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password.read_text().strip(),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def _write_private(path: Path, content: str) -> None:
    path.touch(0o600, exist_ok=False)
    path.write_text(content + "\n")
