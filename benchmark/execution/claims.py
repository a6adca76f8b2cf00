"""Leases on runs in a database that several machines share: whoever holds a run's lease trains it.

A row per run that is held, unique by its signature. A lease is won or lost by one statement, renewed while the process
lives, deleted when it is released, and may be taken over once it has expired. The clock is the database's; for SQLite,
which has no server, that is the clock of the machine that asks, so machines share PostgreSQL.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Delete, Double, MetaData, Table, Text, delete, func, inspect, or_, select
from sqlalchemy import literal_column as expression
from sqlalchemy import update as updated
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from benchmark import databases, tracking
from benchmark.errors import ServiceError, UserError
from benchmark.execution.options import NO_CLAIMS, Options

log = logging.getLogger(__name__)

#: how long a lease lives that is not renewed; it is renewed every third of that
LEASE_SECONDS = 90.0
#: PostgreSQL's lock for making the table, which two sessions must not do at once
_MAKING = 0x5EED_C1A1

_EXAMPLES = f"use postgresql://USER@HOST/NAME, sqlite:////PATH/claims.db, or {NO_CLAIMS}"

_TABLE = Table(
    "run_claims",
    MetaData(),
    Column("signature", Text, primary_key=True),
    #: runs folder, host and process, to be read; and what tells this process from all others
    Column("owner", Text, nullable=False),
    Column("token", Text, nullable=False),
    #: seconds since 1970, of the database's clock
    Column("claimed", Double, nullable=False),
    Column("renewed", Double, nullable=False),
    Column("expires", Double, nullable=False),
)
_COLUMNS = _TABLE.c
_NOW = {
    "sqlite": expression("((julianday('now') - 2440587.5) * 86400.0)", Double),
    # not CURRENT_TIMESTAMP, which is when the statement began, however long it waited for another
    "postgresql": expression("cast(extract(epoch from clock_timestamp()) as double precision)", Double),
}
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def url_of(options: Options) -> URL | None:
    """Find the database of a command's leases: the one that is named, or what lies beside the tracking store.

    None, when the files of the runs folder are all that is locked: its own tracking store, a tracking server, `none`.

    Raises:
        UserError: for a database that cannot hold leases.
    """
    tracked = os.environ.get("MLFLOW_TRACKING_URI") or tracking.local_uri(options.runs)
    if options.claims is not None:
        return None if options.claims == NO_CLAIMS else parsed(options.claims)
    if tracked == tracking.local_uri(options.runs):
        return None
    if tracked.startswith("sqlite:///"):  # a file of its own: renewing never waits for MLflow
        return URL.create("sqlite", database=str(Path(tracked.removeprefix("sqlite:///")).with_name("claims.db")))
    return None


def parsed(given: str) -> URL:
    """Read the URL of a database of leases. Raises UserError for one that is neither PostgreSQL nor a SQLite file."""
    return databases.parsed(given, "--claims", _EXAMPLES)


class Claims:
    """The leases of this process in a database; those that it holds are renewed by a thread.

    Methods raise ServiceError when the database fails, with its error as the cause.
    """

    def __init__(self, url: URL) -> None:
        self.place, self._kind = url.render_as_string(), url.get_backend_name()
        self._file = Path(str(url.database)) if self._kind == "sqlite" else None
        self._engine = databases.connected(url, "--claims")
        self._token = uuid.uuid4().hex
        self._is_made = False
        self._held: frozenset[str] = frozenset()
        #: signatures of leases that were given up while the database did not answer
        self._unreleased: frozenset[str] = frozenset()
        #: signatures of runs whose lease another process took over, as far as renewals know
        self.lost: frozenset[str] = frozenset()
        #: what the last renewal, or a release since, failed with; None when it did not
        self.trouble: str | None = None
        #: between a statement and what is noted about it
        self._guard = threading.RLock()
        self._renewing: threading.Thread | None = None

    def claim(self, signature: str, owner: str) -> bool:
        """Take the lease of a run unless another process holds it; whether this process has it now."""
        now = _NOW[self._kind]
        row = {"owner": owner, "token": self._token, "claimed": now, "renewed": now, "expires": now + LEASE_SECONDS}
        take = _INSERT[self._kind](_TABLE).values(signature=signature, **row)
        # ours already: the answer to the first attempt was lost
        free = or_(_COLUMNS.expires <= now, _COLUMNS.token == self._token)
        take = take.on_conflict_do_update(index_elements=[_COLUMNS.signature], set_=row, where=free)
        take = take.execution_options(preserve_rowcount=True)
        with self._guard:
            with self._named_errors():
                self._make()
                with self._engine.connect() as connection:
                    is_won = bool(connection.execute(take).rowcount == 1)
            if is_won:
                self._held |= {signature}
                self.lost -= {signature}
                self._unreleased -= {signature}
                self._keep_renewing()
        return is_won

    def renew(self) -> None:
        """Renew all leases of this process, and note those that others have taken over."""
        now, mine = _NOW[self._kind], _COLUMNS.token == self._token
        with self._guard:
            if not self._held and not self._unreleased:
                return
            with self._named_errors(), self._engine.connect() as connection:
                for signature in self._unreleased:
                    connection.execute(self._give_up(signature))
                    self._unreleased -= {signature}
                connection.execute(updated(_TABLE).where(mine).values(renewed=now, expires=now + LEASE_SECONDS))
                kept = frozenset(connection.execute(select(_COLUMNS.signature).where(mine)).scalars())
            self.lost |= self._held - kept
            self._held &= kept

    def release(self, signature: str) -> None:
        """Give up a lease; where the database does not answer, the next renewal does so, or it expires."""
        with self._guard:
            self._held -= {signature}
            self.lost -= {signature}
            if self.trouble is not None:  # each attempt may take seconds, and a command that ends has many leases
                self._unreleased |= {signature}
                return
            try:
                with self._engine.connect() as connection:
                    connection.execute(self._give_up(signature))
            except SQLAlchemyError as error:
                self._unreleased |= {signature}
                self.trouble = f"the lease of {signature} could not be released yet: {databases.reason_of(error)}"
                log.warning(self.trouble)

    def _give_up(self, signature: str) -> Delete:
        return delete(_TABLE).where(_COLUMNS.signature == signature, _COLUMNS.token == self._token)

    def others(self) -> dict[str, str]:
        """Owners of the leases that other processes hold now, by signature; makes no database."""
        live = _COLUMNS.expires > _NOW[self._kind], _COLUMNS.token != self._token
        with self._named_errors():
            if not self._exists():
                return {}
            with self._engine.connect() as connection:
                return {one.signature: one.owner for one in connection.execute(select(_TABLE).where(*live))}

    def _exists(self) -> bool:
        if not self._is_made and (self._file is None or self._file.exists()):
            self._is_made = inspect(self._engine).has_table(_TABLE.name)
        return self._is_made

    def _make(self) -> None:
        """Make the table unless it is there; processes that do so at once all succeed."""
        if self._exists():
            return
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._engine.execution_options(isolation_level="SERIALIZABLE").begin() as connection:
            if self._kind == "postgresql":  # two sessions that make a table at once break it; SQLite takes turns
                connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
            connection.execute(CreateTable(_TABLE, if_not_exists=True))
        self._is_made = True

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise ServiceError(
                "leases' database",
                f"the leases in {self.place} failed: {databases.reason_of(error)}; repair it, or name another --claims",
            ) from error

    def _keep_renewing(self) -> None:
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew_always, name="claims", daemon=True)
            self._renewing.start()

    def _renew_always(self) -> None:
        while True:
            # a database that is away is asked again soon: the leases go on running out
            time.sleep(LEASE_SECONDS / (12 if self.trouble else 3))
            try:
                self.renew()
                self.trouble = None
            except UserError as error:
                self.trouble = str(error)
