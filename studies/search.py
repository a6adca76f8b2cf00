"""A study in Optuna: a storage shared by processes, trials asked for in batches, retries of a dead worker's trials.

Trials are asked for and re-queued under one lock per study, so that a grid's points are trained exactly once, whichever
workers join or die.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from benchmark import databases, files
from benchmark.errors import UserError
from studies.base import Choice, Pruner, Sampler, Study
from studies.chance import Chance

optuna.logging.set_verbosity(optuna.logging.WARNING)

#: a worker on another machine counts as dead when its last heartbeat is older than this
SILENT_SECONDS = 900.0
HEARTBEAT_SECONDS = 60.0
#: seeds that WilcoxonPruner needs before it prunes
WILCOXON_SEEDS = 4

#: characters of a title in file names, which end at 255
LONGEST_SLUG = 150
_DEFINITION = "definition"
#: user attribute of a failed trial whose point was re-queued; the word in existing storages
_RETRIED = "lost"
#: states of a trial that has ended
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


#: user attributes of the study
_CHANCE, _REFERENCE = "chance", "reference"
#: as Optuna's pages and frames name the value of a trial
METRIC = "validation top-1 (%)"


@dataclass(frozen=True)
class Reference:
    """The plain method, trained and measured as the trials are."""

    #: the choice in words
    choice: str
    title: str
    #: mean validation accuracy and standard deviation over the seeds, percent
    value: float
    std: float | None
    num_seeds: int


class Worker:
    """This process as a worker of studies: a name, and a lock that is free when the process is gone."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = uuid.uuid4().hex[:12], folder
        folder.mkdir(parents=True, exist_ok=True)
        #: where its lock can be looked at: workers of one machine may have folders of their own
        self.host = f"{platform.node()}:{folder.resolve()}"
        self._lock = FileLock(self._file(self.name))
        with FileLock(folder / "workers.lock"):  # a lock must not be deleted between its file's making and its taking
            for left in folder.glob("worker-*.lock"):
                if files.is_free(left):  # its worker was killed; a lock that is not there is free as well
                    left.unlink(missing_ok=True)
            self._lock.acquire()

    def close(self) -> None:
        """Release the lock and delete its file."""
        self._lock.release()
        self._file(self.name).unlink(missing_ok=True)

    def is_gone(self, trial: FrozenTrial, now: float) -> bool:
        """Whether the trial's worker is gone: its lock is free on this machine, or its heartbeat stopped elsewhere.

        `now` is of the clock that heartbeats are written by.
        """
        name, host = trial.user_attrs.get("worker"), trial.user_attrs.get("host")
        if name is None or name == self.name:
            # a trial is asked for and gets its worker under one lock: without a worker, its worker died in between
            return name is None
        if host != self.host:
            return now - float(trial.user_attrs.get("heartbeat", 0.0)) > SILENT_SECONDS
        return files.is_free(self._file(name))

    def _file(self, name: str) -> Path:
        return self._folder / f"worker-{name}.lock"


class Search:
    """A study in a storage, as one worker uses it."""

    def __init__(
        self,
        definition: Study,
        title: str,
        about: Mapping[str, Any],
        folder: Path,
        storage: str | None = None,
        num_trials: int | None = None,
        fresh: bool = False,
        warmup_steps: int = 0,
    ) -> None:
        """Open the study called `title`, or make it with all points of its grid.

        `about` holds the settings that its results depend on, besides the space: a study of the same title with other
        settings is refused, unless `fresh` deletes it. No trial is pruned in its first `warmup_steps` epochs.

        Raises:
            UserError: for a storage that cannot be opened, and for another study under the same title.
        """
        self.definition, self.title, self.folder = definition, title, folder
        self.num_trials = definition.trials if num_trials is None else num_trials
        self.warmup_steps = warmup_steps
        self.worker = Worker(folder)
        self.place = storage or str(folder / f"{slug(title)}.journal")
        self._guard = FileLock(folder / f"{slug(title)}.lock")
        with named_errors(self.place):
            with self._guard:  # two processes that create the tables at once break them
                self._storage = open_storage(self.place)
            with self.exclusive():
                if fresh and title in optuna.get_all_study_names(self._storage):
                    optuna.delete_study(study_name=title, storage=self._storage)
                self.study = self._create(about)
                self._enqueue_missing()

    def close(self) -> None:
        """Leave the study to the other workers."""
        self.worker.close()

    def _create(self, about: Mapping[str, Any]) -> optuna.Study:
        content = json.loads(json.dumps({**about, **space_of(self.definition)}))
        if self.title in optuna.get_all_study_names(self._storage):
            study = optuna.load_study(study_name=self.title, storage=self._storage)
            _name_metric(study)
            known = study.user_attrs.get(_DEFINITION, {})
            if known != content:
                changed = sorted(key for key in {*content, *known} if content.get(key) != known.get(key))
                raise UserError(
                    f"the storage {self.place} holds '{self.title}' with another {', '.join(changed)}: give --fresh to"
                    " start it again, or another --storage to keep both"
                )
            return study
        study = optuna.create_study(study_name=self.title, storage=self._storage, direction="maximize")
        _name_metric(study)
        study.set_user_attr(_DEFINITION, content)
        return study

    def _enqueue_missing(self) -> None:
        """Enqueue the points of the grid that no trial has: of a new study all, later what a kill left out."""
        # a trial that is to be retried and still runs is re-queued by whoever retries it
        had = [one for one in self.trials() if not (is_retried(one) and one.state == TrialState.FAIL)]
        known = [_as_stored(point_of(one)) for one in had]
        for point in self.definition.grid():
            wanted = _as_stored(point)  # compared by value: what was enqueued as 1 may come back as 1.0
            if not any(all(one.get(name) == value for name, value in wanted.items()) for one in known):
                self.study.enqueue_trial(dict(point))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the study's lock among all its workers, also across machines where they share a database."""
        with self._guard:
            if self._server is None:
                yield
                return
            key = int.from_bytes(hashlib.sha256(self.title.encode()).digest()[:7], "big")
            with self._server.connect() as connection:
                connection.execute(text("select pg_advisory_lock(:key)"), {"key": key})
                try:
                    yield
                finally:
                    connection.execute(text("select pg_advisory_unlock(:key)"), {"key": key})

    @property
    def _server(self) -> Engine | None:
        """The PostgreSQL server of the storage, which workers of several machines share."""
        engine = self._storage.engine if isinstance(self._storage, RDBStorage) else None
        return None if engine is None or engine.dialect.name != "postgresql" else engine

    def _now(self) -> float:
        """Seconds since 1970: by the storage's server where there is one, since the clocks of machines differ."""
        if self._server is None:
            return time.time()
        with self._server.connect() as connection:
            return float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar_one())

    def ask(self) -> list[tuple[Trial, Choice]]:
        """Ask for the next batch of trials; empty when all have been asked for."""
        with named_errors(self.place), self.exclusive():
            self._retry_stale()
            self._enqueue_missing()
            trials = self.trials()
            waiting = sum(trial.state == TrialState.WAITING for trial in trials)
            spent = sum(not is_retried(trial) for trial in trials)
            left = waiting if self.definition.grid() else waiting + max(0, self.num_trials - spent)
            # seeded by the trials seen, not by how often this process was started
            self.study.sampler = sampler_of(self.definition.sampler, seed=len(trials))
            self.study.pruner = pruner_of(self.definition.pruner, self.warmup_steps)
            return [self._take() for _ in range(min(self.definition.at_once, left))]

    def _take(self) -> tuple[Trial, Choice]:
        trial = self.study.ask()
        for key, value in {"worker": self.worker.name, "host": self.worker.host, "heartbeat": self._now()}.items():
            trial.set_user_attr(key, value)
        choice = self.definition.suggest(trial)
        trial.set_user_attr("choice", choice.label)
        return trial, choice

    def _retry_stale(self) -> None:
        """Retry the trials of workers that are gone."""
        now = self._now()
        for trial in self._running():
            if self.worker.is_gone(trial, now):
                self._retry(trial)

    def _running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _retry(self, trial: FrozenTrial) -> None:
        """Fail a trial that nobody will finish, and re-queue its point."""
        self._storage.set_trial_user_attr(trial._trial_id, _RETRIED, True)
        self.study.tell(trial.number, state=TrialState.FAIL)
        self.study.enqueue_trial(point_of(trial), user_attrs={"instead_of": trial.number})

    def tell(self, trial: Trial, value: float | None, **about: Any) -> None:
        """End a trial with its mean validation accuracy, or as failed without one, with `about` as its attributes."""
        self._end(trial, about, value, TrialState.FAIL if value is None else None)

    def prune(self, trial: Trial, **about: Any) -> None:
        """End a trial as pruned, at the last value that was reported."""
        self._end(trial, about, None, TrialState.PRUNED)

    def _end(self, trial: Trial, about: Mapping[str, Any], value: float | None, state: TrialState | None) -> None:
        with named_errors(self.place), suppress(UpdateFinishedTrialError):
            if not self.is_running(trial):  # given up as a dead worker's: another trial has its point
                return
            for key, known in about.items():
                trial.set_user_attr(key, known)
            self.study.tell(trial, value, state)

    def report(self, trial: Trial, value: float, step: int) -> bool:
        """Report a trial's value so far; False for a trial that was given up as a dead worker's."""
        with named_errors(self.place), suppress(UpdateFinishedTrialError):
            trial.report(value, step)
            return True
        return False

    def is_running(self, trial: Trial) -> bool:
        """Whether a trial is still this worker's: one that was silent for too long is failed and re-queued."""
        with named_errors(self.place):
            return any(one.number == trial.number for one in self._running())

    def retry(self, trials: Sequence[Trial]) -> None:
        """Re-queue the trials that this worker leaves unfinished; trials that have ended are left as they are."""
        mine = {trial.number for trial in trials}
        with named_errors(self.place), self.exclusive():
            for trial in self._running():
                if trial.number in mine:
                    self._retry(trial)

    def heartbeat(self, trials: Sequence[Trial]) -> None:
        """Record that these trials are alive, for workers of other machines."""
        with named_errors(self.place), suppress(UpdateFinishedTrialError):
            now, running = self._now(), {trial.number for trial in self._running()}
            for trial in trials:
                if trial.number in running:
                    trial.set_user_attr("heartbeat", now)

    def trials(self) -> list[FrozenTrial]:
        """All trials, including those that were retried."""
        with named_errors(self.place):
            return self.study.get_trials(deepcopy=False)

    def num_left(self) -> int:
        """Count the trials that have not ended."""
        trials = [trial for trial in self.trials() if not is_retried(trial)]
        ended = sum(trial.state in ENDED for trial in trials)
        return max(len(trials) if self.definition.grid() else self.num_trials, len(trials)) - ended

    @property
    def num_failed(self) -> int:
        """Number of trials that failed and are not tried again, whichever process trained them."""
        return sum(trial.state == TrialState.FAIL and not is_retried(trial) for trial in self.trials())

    def winner(self) -> Choice | None:
        """The choice of the best trial; None while no trial is complete, and when the best is at chance level."""
        best = self.best()
        return None if best is None or self.is_at_chance else self.definition.suggest(FixedTrial(dict(best.params)))

    @property
    def is_at_chance(self) -> bool:
        """Whether trials are complete and the best cannot be told from the best of as many guesses."""
        best, chance = self.best(), self.chance
        return best is not None and chance is not None and chance.covers(best.value or 0.0, self.num_complete)

    @property
    def num_complete(self) -> int:
        """Number of trials that have a value."""
        return sum(trial.state == TrialState.COMPLETE for trial in self.trials())

    @property
    def chance(self) -> Chance | None:
        """What guessing reaches on the validation split; None before `remember` was told."""
        known = self.study.user_attrs.get(_CHANCE)
        return None if known is None else Chance(**known)

    @property
    def reference(self) -> Reference | None:
        """What the plain method reached on the trials' split; None before `remember` was told."""
        known = self.study.user_attrs.get(_REFERENCE)
        return None if known is None else Reference(**known)

    def remember(self, fact: Chance | Reference) -> None:
        """Keep a fact with the study, for its tables and figures."""
        with named_errors(self.place):
            self.study.set_user_attr(_CHANCE if isinstance(fact, Chance) else _REFERENCE, asdict(fact))

    def best(self) -> FrozenTrial | None:
        """The trial with the highest value, the earliest of equals; None while no trial is complete."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number)) if complete else None


def _name_metric(study: optuna.Study) -> None:
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([METRIC])


def space_of(definition: Study) -> dict[str, Any]:
    """Parts of a definition that a storage must agree with: grid or sampler, and how trials are made of them."""
    points = [dict(point) for point in definition.grid()]
    return {
        "study": definition.name,
        "space": points or "drawn",
        "sampler": definition.sampler,
        "pruner": definition.pruner,
        "at_once": definition.at_once,
        "seeds": definition.seeds,
    }


def is_retried(trial: FrozenTrial) -> bool:
    """Whether the trial was failed and re-queued: another trial has its point."""
    return bool(trial.user_attrs.get(_RETRIED, False))


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of a trial, or those it was enqueued with: it has none before it was asked for them."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _as_stored(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as a storage gives it back: tuples as lists."""
    return dict(json.loads(json.dumps(dict(point))))


def frame(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Tabulate the trials that were not retried, with a column for each parameter.

    The other columns are number, state, value, std, num_seeds, values (by seed), choice and reason.
    """
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "std": trial.user_attrs.get("std"),
            "num_seeds": trial.user_attrs.get("num_seeds", 0),
            "values": trial.user_attrs.get("values", {}),
            "choice": trial.user_attrs.get("choice", ""),
            "reason": trial.user_attrs.get("reason", ""),
            **trial.params,
        }
        for trial in trials
        if not is_retried(trial)
    ]
    columns = ["number", "state", "value", "std", "num_seeds", "values", "choice", "reason"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def open_storage(place: str) -> BaseStorage:
    """Open the storage at a path (a journal) or a database URL."""
    if "://" in place:
        engine = create_engine(place)
        databases.refuse_other(
            "Optuna", engine, "--storage", "name another one, e.g. made by `createdb studies`; leases may lie in either"
        )
        engine.dispose()
        return RDBStorage(place, engine_kwargs={"pool_pre_ping": True})
    return JournalStorage(JournalFileBackend(place))


def sampler_of(kind: Sampler, seed: int) -> BaseSampler:
    """Make an Optuna sampler by name; a grid's points are enqueued, so its sampler is never asked."""
    if kind == "tpe":
        return TPESampler(seed=seed, n_startup_trials=8)
    return GPSampler(seed=seed) if kind == "gp" else RandomSampler(seed=seed)


def pruner_of(kind: Pruner, warmup_steps: int) -> BasePruner:
    """Make an Optuna pruner by name."""
    if kind == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=warmup_steps)
    if kind == "hyperband":
        return HyperbandPruner(min_resource=max(1, warmup_steps))
    if kind == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # asked for by name
            return WilcoxonPruner(n_startup_steps=WILCOXON_SEEDS)
    return NopPruner()


def slug(title: str) -> str:
    """Turn a title into a part of a file name."""
    made = re.sub(r"[^A-Za-z0-9_.-]+", "-", title).strip("-")
    if len(made) <= LONGEST_SLUG:
        return made
    return f"{made[:LONGEST_SLUG]}-{hashlib.sha256(title.encode(errors='backslashreplace')).hexdigest()[:8]}"


@contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Turn the errors of a storage that cannot be used into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (SQLAlchemyError, StorageInternalError, OSError, ImportError, json.JSONDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the study's storage {place} cannot be used: {reason}") from error
