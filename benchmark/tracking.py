"""MLflow: one experiment per suite, one parent run per pair, one run per student. The only importer of mlflow.

A run's signature is a tag. The history in a lane's checkpoint is the source of truth for its metrics: whatever MLflow
does not have yet is logged on resume, nothing twice.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import unquote, urlparse

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # some seconds: whoever can wait longer tries again
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    _validate_dataset,
    _validate_experiment_tag,
    _validate_metric,
    _validate_param,
    _validate_tag,
)
from sqlalchemy import URL, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from benchmark import databases, files, known_runs, process, saved_views
from benchmark.config import RunConfig, numerics_of
from benchmark.datasets.base import DataSet
from benchmark.errors import ServiceError, UserError
from benchmark.saved_views import SavedView

# every migration of a new database would log a line
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# it prints the traceback of every error that it also raises
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Role = Literal["student", "teacher"]

#: MLflow refuses longer batches
_BATCH = 900
#: MLflow refuses more tags or parameters at once
_FEW = 100
#: tag of a copy while its merge goes on: the runs folder that it is merged into
_COPIED = "merging"
#: metric of the best epoch on the test set: its name says how the epoch was chosen
BEST_ON_TEST = "final/best_selected_on_test"
#: errors of SQLite that trying again does not mend
_LASTING = {"SQLITE_READONLY", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN"}
#: databases that MLflow can use directly, and that only a server shares with its artifacts
_DATABASES = ("postgres", "mysql", "mssql")
#: ids in one query: MLflow parses a list of some thousands slowly, or not at all
_MAX_IDS = 500
#: new runs that are read one by one; when there are more, asking by signature costs less
_MAX_NEW = 500


@dataclass(frozen=True)
class Tracked:
    """A run as MLflow has recorded it."""

    run_id: str
    experiment_id: str
    signature: str
    status: Status
    #: FAILED for good (a non-finite loss), until --retry-failed
    final_failure: bool
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    start_time: int

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that the run was trained with."""
        pairs = [
            (part.partition(" ")[0], part.partition(" ")[2])
            for part in self.tags.get("versions", "").split(", ")
            if " " in part
        ]
        return dict(pairs)


@dataclass(frozen=True)
class Unended:
    """A run that stands as RUNNING."""

    run_id: str
    #: None for the run of a pair or a study, which others are nested in
    signature: str | None
    parent: str | None
    #: name of the runs folder that made it
    runs_folder: str | None


class Point(NamedTuple):
    """A value of a metric as it was logged."""

    name: str
    step: int
    #: ms since 1970
    timestamp: int
    value: float


@dataclass(frozen=True)
class Input:
    """The images that a run was trained on, as MLflow describes them."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str | None


@dataclass(frozen=True)
class Content:
    """What a run was told and is called, beside its metrics and artifacts: all that a copy of it needs."""

    name: str
    experiment_id: str
    start_time: int
    end_time: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    data: Input | None


@dataclass(frozen=True)
class Copy:
    """A run of another store that a merge has begun to copy into this one."""

    run_id: str
    #: whether it is whole, and a run like any other: what is left to do concerns the store
    is_whole: bool


class Tracker:
    """A tracking store: the SQLite file of a runs folder, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs.resolve()
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or local_uri(self.runs)
        self.is_local = self.uri.startswith("sqlite:")
        if self.uri.startswith(_DATABASES):
            place = make_url(self.uri).render_as_string()
            raise UserError(
                f"MLFLOW_TRACKING_URI={place}: a database has no place for artifacts that other machines reach; serve"
                f" it with `make server STORE={place}`, and export the address that this prints"
            )
        try:
            with self._guarded():
                if self.is_local and self._database.exists():
                    self._refuse_study()
                self.client = MlflowClient(self.uri)
                self.client.search_experiments(max_results=1)
                if self.is_local and not self.is_read_only and self._bring_artifacts_home():
                    files.say(f"{self.runs} was copied or moved: its runs now name the artifacts that lie in it.")
        except UserError:
            raise
        except OSError as error:
            raise UserError(
                f"cannot use the runs folder {self.runs}: {error.strerror or error}; choose another with --runs"
            ) from error
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            if "error code 401" in reason:
                reason += " Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            raise UserError(f"cannot open the tracking store {self.uri}: {reason}") from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Hold the lock of the database: processes that open a new one at the same time corrupt it for good."""
        home = self._database.parent if self.is_local else self.runs
        lock = FileLock(home / "mlflow.lock")
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError:  # a folder that can only be read: nobody makes a database there
            if self.is_local and not self._database.exists():
                raise
        try:
            yield
        finally:
            lock.release()

    def _refuse_study(self) -> None:
        engine = create_engine(URL.create("sqlite", database=str(self._database)))
        databases.refuse_other("MLflow", engine, "MLFLOW_TRACKING_URI", "name a file of its own")
        engine.dispose()

    @property
    def _database(self) -> Path:
        return Path(self.uri.removeprefix("sqlite:///"))

    @property
    def is_read_only(self) -> bool:
        """Whether the store is a file that can be read, but not written."""
        places = (self._database, self._database.parent) if self.is_local else ()  # SQLite's journal lies beside it
        return not all(os.access(place, os.W_OK, effective_ids=True) for place in places)

    @property
    def _known(self) -> Path:
        return self.runs / "known-runs.json"

    @property
    def _artifacts(self) -> Path:
        """Folder beside the database, which several runs folders may share."""
        return (self._database.parent if self.is_local else self.runs) / "artifacts"

    def foreign_artifacts(self) -> list[str]:
        """Places outside this runs folder where its store, which cannot be written, says that artifacts lie.

        MLflow stores absolute paths, so a folder that was copied or moved names the one that it came from.
        """
        return sorted(said for said, home in self._homes().values() if said != home)

    def lost_artifacts(self) -> list[str]:
        """Folders of artifacts that should lie in this runs folder, since their experiments have finished runs."""
        folders = {one: Path(_path_of(home)) for one, (_, home) in self._homes().items()}
        finished = "attributes.status = 'FINISHED' and tags.role = 'student'"
        return [
            str(folder)
            for experiment_id, folder in folders.items()
            if not folder.is_dir() and self._search([experiment_id], finished, limit=1)
        ]

    def _homes(self) -> dict[str, tuple[str, str]]:
        """Where the store says that an experiment's artifacts lie, and where they do, by its id."""
        found = {}
        for one in self._experiments(ViewType.ALL) if self.is_local else ():
            said = str(one.artifact_location)
            # a server's, or a bucket's, is no folder that could have been moved
            if "suite" in one.tags and urlparse(said).scheme in ("", "file"):
                found[str(one.experiment_id)] = said, (self._artifacts / _path_of(said).name).as_uri()
        return found

    def _bring_artifacts_home(self) -> bool:
        """Let the store of a folder that was copied or moved name this folder's artifacts; whether that was needed."""
        moved = {one: (said, home) for one, (said, home) in self._homes().items() if said != home}
        if moved:
            with closing(sqlite3.connect(self._database, timeout=60)) as connection, connection:
                for experiment_id, (said, home) in moved.items():
                    connection.execute(
                        "update runs set artifact_uri = ? || substr(artifact_uri, ?)"
                        " where experiment_id = ? and substr(artifact_uri, 1, ?) = ?",
                        (home, len(said) + 1, experiment_id, len(said) + 1, f"{said}/"),
                    )
                    connection.execute(
                        "update experiments set artifact_location = ? where experiment_id = ?", (home, experiment_id)
                    )
        return bool(moved)

    def _repository(self, run_id: str) -> ArtifactRepository:
        """The artifacts of a run: in a local store those in this runs folder, whatever the store says."""
        uri = str(self.client.get_run(run_id).info.artifact_uri)
        place = _path_of(uri)  # artifacts/<experiment>/<run>/artifacts
        if (
            self.is_local
            and place.parts[-2:] == (run_id, "artifacts")
            and place.parent.parent.parent.name == "artifacts"
        ):
            uri = self._artifacts.joinpath(*place.parts[-3:]).as_uri()
        return get_artifact_repository(uri, tracking_uri=self.uri)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn the errors of a store that is gone, locked or full into a ServiceError."""
        try:
            yield
        except UserError:
            raise
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ServiceError(
                "tracking store",
                f"the tracking store {self.uri} failed: {reason}; repair it, then the same command resumes",
            ) from error

    def is_away(self, error: BaseException | None) -> bool:
        """Whether an error of the store may pass: it is not reached, locked or full, rather than refusing the call."""
        causes = []
        while error is not None:
            causes.append(error)
            error = error.__cause__
        if any(getattr(cause, "sqlite_errorname", "").startswith(tuple(_LASTING)) for cause in causes):
            return False
        if causes and isinstance(causes[0], MlflowException):
            return bool(causes[0].get_http_status_code() >= 500)
        return any(isinstance(cause, OperationalError | OSError) for cause in causes)

    def experiment(self, name: str, tags: Mapping[str, str], views: Sequence[SavedView] = ()) -> str:
        """Get the id of an experiment, created on first use, with these tags, and these views unless it has them.

        A description that the user has changed in MLflow stays; one that was only shorter is brought up to date.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (self._artifacts / name.replace(" ", "-")).as_uri() if self.is_local else None
            kind = {"mlflow.experimentKind": "custom_model_development"}
            with suppress(MlflowException):  # another process was faster, or it was deleted
                self.client.create_experiment(name, location, {**kind, **tags})
            found = self.client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise UserError(f"experiment '{name}' was deleted in MLflow: restore it in the UI, or use another --runs")
        for key, value in tags.items():
            before = found.tags.get(key)
            is_the_users = key == "mlflow.note.content" and before and not value.startswith(before)
            if before != value and not is_the_users:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        self._save_views(found, views)
        return str(found.experiment_id)

    def _save_views(self, experiment: Experiment, views: Sequence[SavedView]) -> None:
        """Save views that the experiment does not have; one that the user changed in MLflow stays."""
        for view in views:
            key, value = view.tag(now_ms())
            if key not in experiment.tags:
                self.client.set_experiment_tag(experiment.experiment_id, key, value)

    def save_views(self, experiment_id: str) -> None:
        """Save the views of an experiment that an earlier version made without them."""
        found = self.client.get_experiment(experiment_id)
        if found.name.startswith(saved_views.STUDIES):
            self._save_views(found, [saved_views.TRIALS])
        else:
            pairs = self._search([experiment_id], "tags.role = 'pair' and attributes.run_name LIKE '% -> %'", limit=2)
            self._save_views(found, saved_views.of_old_suite(len(pairs)))

    def parent(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Get the id of a pair's parent run, created on first use and RUNNING until it is ended."""

        def oldest() -> str | None:
            query = f"tags.role = 'pair' and attributes.run_name = '{name}'"
            found = self.client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"])
            return min(((run.info.start_time, run.info.run_id) for run in found), default=(0, None))[1]

        run_id = oldest()
        if run_id is None:
            made = self.client.create_run(experiment_id, run_name=name, tags={**tags, "role": "pair"}).info.run_id
            # commands that start at the same moment make one each: all of them take the oldest
            run_id = str(oldest() or made)
            if run_id != made:
                self.client.delete_run(made)
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def runs_with(self, signatures: Iterable[str], anew: bool = False) -> list[Tracked]:
        """All training runs with these signatures, of any experiment, newest first, as the store has them now.

        The time does not depend on how many runs the store holds, but for a signature's first time in this runs folder.
        Runs that were put into the store with a start of long ago are found `anew` only, by a scan per signature.
        """
        wanted = list(dict.fromkeys(signatures))
        if not wanted:
            return []
        path = self._known
        everywhere = self._experiments(ViewType.ALL)  # a run that was deleted may be restored
        known = known_runs.load(path, self._identity(everywhere), now_ms())
        before = deepcopy(known)
        experiments = [str(one.experiment_id) for one in everywhere]
        new = self._new_runs(known, experiments)
        if len(new) >= _MAX_NEW:
            known.runs.clear()
        seen = [(str(one.info.run_id), one.data.tags.get("signature"), int(one.info.start_time)) for one in new]
        known.see(seen, now=now_ms())
        for signature in wanted if anew else known.unknown(wanted):
            query = f"tags.signature = '{signature}'"
            known.runs[signature] = [str(one.info.run_id) for one in self._search(experiments, query, ViewType.ALL)]
        if known != before:
            known.save(path)
        ids = known.ids(wanted)
        active = [str(one.experiment_id) for one in everywhere if one.lifecycle_stage == "active"]
        found: list[Tracked] = []
        for start in range(0, len(ids), _MAX_IDS):
            found += self._training_runs(active, f"attributes.run_id IN ({_quoted(ids[start : start + _MAX_IDS])})")
        return sorted(found, key=lambda run: -run.start_time)

    def _new_runs(self, known: known_runs.KnownRuns, experiments: Sequence[str]) -> list[Run]:
        """Runs that may have started since the store was last looked at; no more than _MAX_NEW of them."""
        query = f"attributes.start_time >= {known.since}"
        ids = list(known.recent)[-2 * _MAX_IDS :]
        query += f" and attributes.run_id NOT IN ({_quoted(ids)})" if ids else ""
        newest_first = ["attributes.start_time DESC"]
        return list(self.client.search_runs(experiments, query, ViewType.ALL, _MAX_NEW, newest_first))

    def _identity(self, experiments: Sequence[Experiment]) -> str:
        """Name of the store, from its first experiment: another database in the same place has another."""
        first = min(((int(one.creation_time or 0), str(one.experiment_id)) for one in experiments), default=(0, ""))
        return f"{'' if self.is_local else self.uri} {first[0]} {first[1]}".strip()

    def runs_on(self, data_digest: str, query: str = "", limit: int | None = None) -> list[Tracked]:
        """Training runs on exactly these images, of any experiment, newest first: all, or the first `limit`.

        `query` narrows them, in MLflow's language; whatever is left is read whole, at some milliseconds a run.
        """
        return self._training_runs(self._experiment_ids(), _and(f"tags.data_digest = '{data_digest}'", query), limit)

    def runs_in(self, experiments: Sequence[str], query: str = "") -> list[Tracked]:
        """All training runs of the experiments, newest first; `query` narrows them, in MLflow's language."""
        return self._training_runs(experiments, query)

    def values(self, tag: str, experiments: Sequence[str] | None = None, query: str = "") -> list[str]:
        """Distinct values of a tag among the runs of some experiments (default: all), the newest run's first."""
        within = self._experiment_ids() if experiments is None else experiments
        found: list[str] = []
        while True:  # a query per value, instead of reading every run
            others = [f"tags.`{tag}` != '{value}'" for value in ["", *found]]
            runs = self._search(within, _and(query, *others), limit=1)
            if not runs:
                return found
            found.append(runs[0].data.tags[tag])

    def _experiments(self, view: int = ViewType.ACTIVE_ONLY) -> list[Experiment]:
        found: list[Experiment] = []
        token: str | None = None
        while True:
            page = self.client.search_experiments(view, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _experiment_ids(self) -> list[str]:
        return [str(experiment.experiment_id) for experiment in self._experiments()]

    def _training_runs(self, experiments: Sequence[str], query: str, limit: int | None = None) -> list[Tracked]:
        return [_tracked(run) for run in self._search(experiments, query, limit=limit) if "signature" in run.data.tags]

    def _search(
        self, experiments: Sequence[str], query: str, view: int = ViewType.ACTIVE_ONLY, limit: int | None = None
    ) -> list[Run]:
        """Runs that match a query, newest first: all, or the first `limit`."""
        found: list[Run] = []
        token: str | None = None
        while experiments:
            size = min(1000, limit - len(found)) if limit else 1000
            page = self.client.search_runs(
                list(experiments), query, view, size, order_by=["attributes.start_time DESC"], page_token=token
            )
            found += page
            token = page.token
            if not token or len(found) == limit:
                break
        return found

    def unended(self, runs_folder: str | None = None) -> list[Unended]:
        """Runs of one runs folder, or of all, that stand as RUNNING, newest first; also those of pairs and studies."""
        ours = "" if runs_folder is None else f"tags.runs_folder = '{runs_folder}'"
        return [
            Unended(
                str(run.info.run_id),
                run.data.tags.get("signature"),
                run.data.tags.get("mlflow.parentRunId"),
                run.data.tags.get("runs_folder"),
            )
            for run in self._search(self._experiment_ids(), _and("attributes.status = 'RUNNING'", ours))
        ]

    def is_running(self, run_id: str) -> bool:
        """Whether a run stands as RUNNING."""
        return bool(self.client.get_run(run_id).info.status == "RUNNING")

    def runs_below(self, parent: str, method: str = "") -> list[Tracked]:
        """Finished training runs that are nested in a run, of one method or of all; none once that run is deleted."""
        info = self.client.get_run(parent).info
        query = _and(
            f"tags.`mlflow.parentRunId` = '{parent}'",
            "attributes.status = 'FINISHED'",
            f"params.method = '{method}'" if method else "",
        )
        return self._training_runs([info.experiment_id], query) if info.lifecycle_stage == "active" else []

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """History of a metric as (step, value), the last value logged for each step."""
        points = sorted(self.client.get_metric_history(run_id, metric), key=lambda point: point.timestamp)
        return sorted({int(point.step): float(point.value) for point in points}.items())

    def download(self, run_id: str, folder: Path, without: Collection[str] = ()) -> None:
        """Copy a run's artifacts into a folder; `without` names some that are left where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        repository = self._repository(run_id)
        if not without:
            repository.download_artifacts("", str(folder))
            return
        for found in repository.list_artifacts():
            if found.path not in without:
                repository.download_artifacts(found.path, str(folder))

    def artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """Copy one of a run's artifacts into a folder; return its path. Raises UserError when it is not to be had."""
        with self.named_errors():
            repository = self._repository(run_id)
            if name not in [one.path for one in repository.list_artifacts()]:
                raise UserError(f"there is no {name} in {repository.artifact_uri}")
            return Path(repository.download_artifacts(name, str(folder)))

    def start(
        self,
        experiment_id: str,
        config: RunConfig,
        signature: str,
        data: DataSet,
        *,
        role: Role,
        name: str,
        parent: str | None,
        tags: Mapping[str, str],
        run_id: str | None = None,
    ) -> str:
        """Create a run with its parameters, tags and data set, and return its id; with `run_id`, complete that run."""
        commit, dirty = process.git_state()
        command = process.command_line()
        everything = {
            "role": role,
            "signature": signature,
            "numerics": numerics_of(config.method),
            "method": config.method,
            "student": config.student,
            "seed": str(config.repetition),
            "dataset": data.name,
            "dataset_is_part": str(data.is_part).lower(),
            "data_digest": data.digest,
            "git_commit": commit,
            "git_dirty": str(dirty).lower(),
            "command": command,
            "host": platform.node(),
            "mlflow.source.name": command,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": commit,
            "versions": _versions_text(process.package_versions()),
            **({"mlflow.parentRunId": parent} if parent else {}),
            **tags,
        }
        if run_id is None:
            run_id = str(self.client.create_run(experiment_id, run_name=name, tags=everything).info.run_id)
        self._describe(run_id, config, data)
        return run_id

    def complete(self, run_id: str, config: RunConfig, data: DataSet) -> None:
        """Log the parameters and the data set of a run that lacks them: a kill came between its creation and them."""
        if not self.client.get_run(run_id).data.params:
            self._describe(run_id, config, data)

    def _describe(self, run_id: str, config: RunConfig, data: DataSet) -> None:
        params = [Param(key, str(value)[:6000]) for key, value in flat(config.model_dump(mode="json")).items()]
        dataset = Dataset(
            name=data.name,
            digest=data.digest[:36],
            source_type="local",
            source=_storable(data.source),
            profile=f'{{"num_train": {len(data.train)}, "num_test": {len(data.test)}}}',
        )
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self.client.log_batch(run_id, params=params)  # last, since they tell that all of it is there

    def reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set an interrupted run to RUNNING again."""
        self.client.update_run(run_id, status="RUNNING")
        self.tag(run_id, {**tags, "failure": "", "failure_reason": ""})

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_epochs(self, run_id: str, rows: Sequence[Mapping[str, float]], when_ms: int | None = None) -> None:
        """Log rows of per-epoch metrics; `epoch` is the step. Logging them again with an equal time changes nothing."""
        when = now_ms() if when_ms is None else when_ms
        metrics = [
            Metric(name, value, when, int(row["epoch"]))
            for row in rows
            for name, value in row.items()
            if name != "epoch"
        ]
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def metrics(self, run_id: str) -> dict[str, float]:
        """Last value of every metric of a run."""
        return dict(self.client.get_run(run_id).data.metrics)

    def tags(self, run_id: str) -> dict[str, str]:
        """Tags of a run."""
        return dict(self.client.get_run(run_id).data.tags)

    def epochs_logged(self, run_id: str) -> set[int]:
        """Epochs whose metrics were logged."""
        return {int(point.step) for point in self.client.get_metric_history(run_id, "lr")}

    def summarise(self, run_id: str, metrics: Mapping[str, float], when_ms: int | None = None) -> None:
        """Log a run's final figures, without a step; again with an equal time changes nothing."""
        when = now_ms() if when_ms is None else when_ms
        self.client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in metrics.items()])

    def artifacts(self, run_id: str, contents: Mapping[str, bytes | Path]) -> None:
        """Store files with a run, by name."""
        repository = self._repository(run_id)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents.items():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    target.symlink_to(content.resolve())
                else:
                    target.write_bytes(content)
                repository.log_artifact(str(target), str(target.parent.relative_to(folder)).removeprefix("."))

    def end(self, run_id: str, status: Status, **tags: str) -> None:
        """End a run with a status."""
        if tags:
            self.tag(run_id, {key: _storable(value)[:4000] for key, value in tags.items()})
        self.client.set_terminated(run_id, status)

    def content(self, run_id: str) -> Content:
        """Read what a run was told and is called."""
        run = self.client.get_run(run_id)
        datasets = run.inputs.dataset_inputs if run.inputs is not None else []
        first = datasets[0].dataset if datasets else None
        return Content(
            name=str(run.info.run_name),
            experiment_id=str(run.info.experiment_id),
            start_time=int(run.info.start_time),
            end_time=None if run.info.end_time is None else int(run.info.end_time),
            tags=dict(run.data.tags),
            params=dict(run.data.params),
            data=first and Input(first.name, first.digest, first.source_type, first.source, first.profile),
        )

    def points(self, run_id: str) -> list[Point]:
        """Read every value of every metric of a run, sorted."""
        names = self.client.get_run(run_id).data.metrics
        return sorted(
            Point(name, int(one.step), int(one.timestamp), float(one.value))
            for name in names
            for one in self.client.get_metric_history(run_id, name)
        )

    def experiment_content(self, experiment_id: str) -> tuple[str, dict[str, str]]:
        """Name and tags of an experiment."""
        found = self.client.get_experiment(experiment_id)
        return str(found.name), dict(found.tags)

    def experiment_like(self, name: str, tags: Mapping[str, str]) -> str:
        """Get the id of an experiment that another store has with these tags; those that it has here stay."""
        found = self.client.get_experiment_by_name(name)
        known = {} if found is None else found.tags
        return self.experiment(name, {key: value for key, value in tags.items() if key not in known})

    def copies(self, owner: str) -> list[Copy]:
        """Copies that merges of this runs folder, its name being `owner`, have begun and not ended."""
        found = self._search(self._experiment_ids(), f"tags.{_COPIED} = '{owner}'")
        return [Copy(str(run.info.run_id), "signature" in run.data.tags) for run in found]

    def begin_copy(self, owner: str, content: Content) -> str:
        """Create a run that started when its original did, and return its id.

        Until `end_copy` it has neither signature nor role: no command takes it for a run, nor for one of a pair.
        """
        made = self.client.create_run(content.experiment_id, content.start_time, {_COPIED: owner}, content.name)
        return str(made.info.run_id)

    def fill_copy(self, run_id: str, content: Content, points: Sequence[Point]) -> None:
        """Log the parameters, images and metrics of a copy; again, it changes nothing."""
        params = [Param(key, value) for key, value in content.params.items()]
        for start in range(0, len(params), _FEW):
            self.client.log_batch(run_id, params=params[start : start + _FEW])
        if content.data is not None:
            dataset = _dataset(content.data)
            self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        for start in range(0, len(points), _BATCH):
            batch = [Metric(name, value, when, step) for name, step, when, value in points[start : start + _BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def end_copy(self, run_id: str, status: Status, content: Content) -> None:
        """End a copy when its original ended; with its tags, which come all at once, it is a run like any other."""
        self.client.set_terminated(run_id, status, content.end_time)
        self.tag(run_id, content.tags)

    def forget_copy(self, run_id: str) -> None:
        """Delete the mark of a copy."""
        self.client.delete_tag(run_id, _COPIED)

    def delete(self, run_id: str) -> None:
        """Delete a run, as MLflow does: it can be restored there."""
        self.client.delete_run(run_id)

    def forget_known(self) -> None:
        """Let runs be found that came into the store with a start of long ago."""
        known_runs.forget(self._known)

    def where(self, experiment: str) -> str:
        """Say where the runs of an experiment can be browsed."""
        identity = self.experiments().get(experiment)
        if identity is None:
            return "none is tracked yet"
        address = self.ui_address(identity)
        if not self.is_local:
            return address
        usual = self.runs == Path("runs").resolve()
        return f"`make ui{'' if usual else f' RUNS={shlex.quote(str(self.runs))}'}`, then {address}"

    def ui_address(self, experiment_id: str, local_server: str = "http://127.0.0.1:5000", charts: bool = False) -> str:
        """Address of an experiment's students sorted by accuracy, or of their charts, in MLflow's UI.

        At the server, or at the local server that `make ui` starts.
        """
        server = local_server if self.is_local else self.uri.rstrip("/")
        page = f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        experiment = self.client.get_experiment(experiment_id)
        listed = saved_views.TRIALS if experiment.name.startswith(saved_views.STUDIES) else saved_views.STUDENTS
        view = saved_views.charts(1) if charts else listed
        return view.address(page, is_saved=f"{saved_views.TAG}{view.key}" in experiment.tags)

    def experiments(self) -> dict[str, str]:
        """Ids of this project's experiments by name, newest first."""
        found = sorted(self._experiments(), key=lambda one: -int(one.last_update_time or 0))
        return {one.name: str(one.experiment_id) for one in found if "suite" in one.tags}


def fault_of(
    content: Content, points: Iterable[Point], parent_tags: Mapping[str, str], experiment_tags: Mapping[str, str]
) -> str | None:
    """Explain why no store takes a run with this content below such a parent; None when one does."""
    kinds = (
        ("tag", _validate_tag, content.tags),
        ("tag of its parent", _validate_tag, parent_tags),
        ("parameter", _validate_param, content.params),
    )
    try:
        if max(len(content.tags), len(parent_tags)) > _FEW:
            return f"it has more than {_FEW} tags"
        for kind, check, fields in kinds:
            for key, value in fields.items():
                if len(kept := check(key, value).value) < len(value):  # the store would cut it
                    return f"{kind} {key} has more than {len(kept):,} characters"
        for key, value in experiment_tags.items():
            _validate_experiment_tag(key, value)
        for point in points:
            _validate_metric(point.name, point.value, point.timestamp, point.step)
        if content.data is not None:
            _validate_dataset(_dataset(content.data))
    except MlflowException as error:
        return str(error).splitlines()[0]
    return None


def _storable(text: str) -> str:
    """Escape bytes that are no UTF-8, as in names of files, which no store takes."""
    return text.encode(errors="backslashreplace").decode()


def _dataset(data: Input) -> Dataset:
    return Dataset(data.name, data.digest, data.source_type, data.source, profile=data.profile)


def now_ms() -> int:
    """Time in milliseconds since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000


def newest_schema() -> str:
    """Version of the tables that this version of MLflow makes, in the words of its migrations."""
    return str(_get_latest_schema_revision())


def open_existing(runs: Path) -> Tracker | None:
    """Open the tracker of a runs folder, or return None when nothing was tracked there yet; create no database."""
    configured = "MLFLOW_TRACKING_URI" in os.environ
    return Tracker(runs) if configured or (runs / "mlflow.db").exists() else None


def local_uri(runs: Path) -> str:
    """Absolute URI of the SQLite store in a runs folder."""
    return f"sqlite:///{runs.resolve() / 'mlflow.db'}"


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to dotted names; the method's groups lose their common prefix."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, "" if name == "parameters" else f"{name}.")
        else:
            found[name] = value
    return found


def _path_of(uri: str) -> PurePosixPath:
    """Path of an artifact location, which MLflow writes as a path or as a URI."""
    parsed = urlparse(uri)
    return PurePosixPath(unquote(parsed.path) if parsed.scheme else uri)


def _and(*conditions: str) -> str:
    return " and ".join(condition for condition in conditions if condition)


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join(f"'{one}'" for one in ids)


def _tracked(run: Run) -> Tracked:
    tags, metrics = _in_todays_words(dict(run.data.tags), dict(run.data.metrics))
    return Tracked(
        run_id=str(run.info.run_id),
        experiment_id=str(run.info.experiment_id),
        signature=tags["signature"],
        status=cast(Status, run.info.status),
        final_failure=tags.get("failure") == "final",
        tags=tags,
        metrics=metrics,
        params=dict(run.data.params),
        start_time=int(run.info.start_time),
    )


def _in_todays_words(tags: dict[str, str], metrics: dict[str, float]) -> tuple[dict[str, str], dict[str, float]]:
    """Rename tags and metrics of runs that an earlier version logged; its stores are left as they are."""
    if "distiller" in tags:
        tags.setdefault("method", tags.pop("distiller"))
    if versions := {key: tags.pop(key) for key in list(tags) if key.startswith("version.")}:
        tags.setdefault("versions", _versions_text({key.partition(".")[2]: one for key, one in versions.items()}))
    if "final/best_test" in metrics:
        metrics.setdefault(BEST_ON_TEST, metrics.pop("final/best_test"))
    return tags, metrics


def _versions_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())
