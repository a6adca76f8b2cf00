"""What commands in the test process make again and again, and what is the same each time."""

from __future__ import annotations

import functools
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy


@pytest.fixture(scope="session", autouse=True)
def new_stores_are_copies() -> Iterator[None]:
    """A new SQLite store has the tables of the first one, which MLflow takes two CPU-seconds to make.

    Commands in a process of their own make theirs. Where no test imports MLflow, neither does this.
    """
    if "benchmark.tracking" not in sys.modules:
        yield
        return
    from mlflow.store.db import utils

    initialize, first = utils._initialize_tables, b""

    @functools.wraps(initialize)
    def copied(engine: Any) -> None:
        nonlocal first
        if engine.dialect.name != "sqlite" or sqlalchemy.inspect(engine).get_table_names():
            initialize(engine)
            return
        if not first:
            initialize(engine)
        with closing(engine.raw_connection()) as borrowed, closing(sqlite3.connect(":memory:")) as kept:
            store = borrowed.driver_connection
            if first:
                kept.deserialize(first)
                kept.backup(store)
            else:
                store.backup(kept)
                first = kept.serialize()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copied)
        yield


@pytest.fixture
def new_stores_are_made(new_stores_are_copies: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test whose point is that a store is made."""
    from mlflow.store.db import utils

    if hasattr(utils._initialize_tables, "__wrapped__"):
        monkeypatch.setattr(utils, "_initialize_tables", utils._initialize_tables.__wrapped__)


@pytest.fixture(scope="session", autouse=True)
def curves_are_drawn_once() -> Iterator[None]:
    """Of runs with as many epochs and the same metrics the first one's curves are drawn, and shown by the others too.

    To draw them takes longer than such a run's training.
    """
    from benchmark.analysis import curves

    draw, drawn = curves.training_curves, dict[tuple[object, ...], bytes]()

    @functools.wraps(draw)
    def shown(rows: Sequence[dict[str, float]], title: str) -> bytes:
        kind = tuple(tuple(sorted(row)) for row in rows)
        if kind not in drawn:
            drawn[kind] = draw(rows, title)
        return drawn[kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "training_curves", shown)
        yield
