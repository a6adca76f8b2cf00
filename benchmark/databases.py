"""Databases that services share: PostgreSQL and SQLite files, and whose tables they hold."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from benchmark.errors import UserError, one_line

#: a service that keeps the version of its tables in `alembic_version`, so that two of them break each other
Service = Literal["MLflow", "Optuna"]

#: how long SQLite waits for another process that writes, and PostgreSQL for a server that does not answer
_BUSY_SECONDS, _AWAY_SECONDS = 60, 10
_TABLES: dict[Service, frozenset[str]] = {
    "MLflow": frozenset({"experiments", "runs"}),
    "Optuna": frozenset({"studies", "trials"}),
}


def parsed(given: str, option: str, examples: str) -> URL:
    """Read the URL of a database that `option` names.

    Raises:
        UserError: for one that is neither PostgreSQL nor a SQLite file; it ends with `examples`.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{option} {one_line(given)}: no URL of a database; {examples}") from error
    kind = url.get_backend_name()
    if kind == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    raise UserError(f"{option} {one_line(url.render_as_string())}: machines do not share such a database; {examples}")


def connected(url: URL, option: str) -> Engine:
    """Make an engine whose every statement is a transaction. Raises UserError where its driver is missing."""
    patience: dict[str, Any] = {"timeout": _BUSY_SECONDS}
    if url.get_backend_name() == "postgresql":
        patience = {"connect_timeout": _AWAY_SECONDS, "tcp_user_timeout": 1000 * _AWAY_SECONDS}
    try:
        return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, connect_args=patience)
    except ModuleNotFoundError as error:
        raise UserError(f"{option}: {error.name} is not installed; install the extra `postgres`") from error


def service_of(engine: Engine) -> Service | None:
    """Find out which service's tables a database holds; None for neither's."""
    there = set(inspect(engine).get_table_names())
    return next((service for service, tables in _TABLES.items() if tables <= there), None)


def revision(engine: Engine) -> str | None:
    """Version of a service's tables, in the words of its migrations; None where there are none."""
    if not inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        found = connection.execute(text("select version_num from alembic_version")).scalar()
    return None if found is None else str(found)


def refuse_other(service: Service, engine: Engine, what: str, way_out: str) -> None:
    """Raise UserError when a database that is to be a service's holds the tables of the other one."""
    found = service_of(engine)
    if found is not None and found != service:
        raise UserError(
            f"{what} {engine.url.render_as_string()} is {found}'s database, and {service} cannot share it: both keep"
            f" the version of their tables in a table alembic_version; {way_out}"
        )


def reason_of(error: SQLAlchemyError | OSError) -> str:
    """First line of a database's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
