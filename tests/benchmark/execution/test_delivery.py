"""Records arrive in order, once, whatever becomes of the store meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from benchmark.errors import UserError
from benchmark.execution import delivery
from benchmark.execution.claims import Claims, parsed
from benchmark.execution.delivery import Delivery
from benchmark.tracking import Tracker


class Store:
    """A store that is away for its next calls, and notes those that it gets."""

    def __init__(self, away: int = 0, error: Exception | None = None) -> None:
        self.away, self.got = away, list[str]()
        self.error = error or MlflowException("connection refused", TEMPORARILY_UNAVAILABLE)

    def log(self, text: str) -> None:
        if self.away:
            self.away -= 1
            raise self.error
        self.got.append(text)


@pytest.fixture
def tracker(runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.01)
    return Tracker(runs_folder)


def test_what_was_put_while_the_store_was_away_arrives_in_order(tracker: Tracker) -> None:
    store, said = Store(away=3), list[str]()
    with Delivery(tracker, said.append, patience_s=60) as made:
        for text in "abc":
            made.put(lambda text=text: store.log(text))  # type: ignore[misc]
        assert made.ask(lambda: len(store.got)) == 3
    assert store.got == ["a", "b", "c"]
    assert [line.partition(":")[0].partition(" after")[0] for line in said] == [
        "The tracking store is away", "The tracking store is back",
    ]  # fmt: skip
    assert "connection refused" in said[0]


def test_the_service_that_is_away_is_named(tracker: Tracker) -> None:
    """Leases are asked for in the delivery's turn as well."""
    leases, said = Claims(parsed("postgresql://nobody@127.0.0.1:1/none")), list[str]()
    store = Store(away=1)

    def call() -> None:
        if not said:
            leases.claim("a", "one")
        store.log("a")

    with Delivery(tracker, said.append, patience_s=60) as made:
        made.ask(call)
    assert [line.split(":")[0].partition(" after")[0] for line in said] == [
        "The leases' database is away", "The tracking store is away",
        "The leases' database and the tracking store are back",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [OSError(111, "Connection refused"), ConnectionResetError("reset by peer")])
def test_a_connection_that_breaks_counts_as_away(tracker: Tracker, error: Exception) -> None:
    store = Store(away=1, error=error)
    with Delivery(tracker, lambda line: None, patience_s=60) as made:
        made.ask(lambda: store.log("a"))
    assert store.got == ["a"]


def test_a_store_that_stays_away_ends_the_delivery(tracker: Tracker) -> None:
    store = Store(away=10**6)
    with Delivery(tracker, lambda line: None, patience_s=0.05) as made:
        made.put(lambda: store.log("a"))
        made.put(lambda: store.got.append("b"))
        with pytest.raises(UserError, match=r"failed: connection refused.*the same command resumes"):
            made.ask(lambda: None)
        assert made.failure is not None
    assert store.got == []  # nothing overtakes what could not be delivered


def test_a_user_who_wants_to_stop_does_not_wait_for_the_store(tracker: Tracker) -> None:
    store, said = Store(away=10**6), threading.Event()
    with Delivery(tracker, lambda line: said.set(), patience_s=3600) as made:
        made.put(lambda: store.log("a"))
        assert said.wait(30)
        made.hurry()
        with pytest.raises(UserError, match="connection refused"):
            made.ask(lambda: None)


def test_a_call_that_the_store_refuses_is_not_repeated(tracker: Tracker) -> None:
    refusal = RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no such run"})
    for error in (refusal, MlflowException("no such run", INVALID_PARAMETER_VALUE)):
        store = Store(away=1, error=error)
        with (
            Delivery(tracker, lambda line: None, patience_s=3600) as made,
            pytest.raises(UserError, match="no such run"),
        ):
            made.ask(lambda store=store: store.log("a"))  # type: ignore[misc]


def test_a_store_that_may_not_be_written_is_not_waited_for(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = tracker.parent(tracker.experiment("small", {}), "pair", {})
    monkeypatch.setattr(tracker.client._tracking_client.store, "ManagedSessionMaker", _readonly(tracker), raising=True)
    with Delivery(tracker, lambda line: None, patience_s=3600) as made, pytest.raises(UserError, match="readonly"):
        made.ask(lambda: tracker.tag(run_id, {"a": "b"}))


def _readonly(tracker: Tracker):  # type: ignore[no-untyped-def]
    """Sessions of a connection that SQLite was told to keep read-only, with MLflow's own handling of errors."""
    import sqlalchemy
    from mlflow.store.db.utils import _get_managed_session_maker
    from sqlalchemy.orm import sessionmaker

    engine = sqlalchemy.create_engine(f"{tracker.uri}?mode=ro&uri=true".replace("sqlite:///", "sqlite:///file:"))
    maker = _get_managed_session_maker(sessionmaker(bind=engine), "sqlite")
    return lambda read_only=True: maker(read_only=read_only)


def test_a_bug_in_a_record_is_not_swallowed(tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    with Delivery(tracker, lambda line: None, patience_s=3600) as made:
        made.put(lambda: {}["missing"])
        with pytest.raises(UserError, match="a record could not be written: KeyError"):
            made.ask(lambda: None)
    assert "Traceback" in capsys.readouterr().err
