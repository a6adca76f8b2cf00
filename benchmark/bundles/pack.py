"""Pack runs, teachers and open checkpoints of a runs folder into a bundle. Read-only, and safe beside training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmark import datasets, files
from benchmark.bundles import content, pieces, rounding
from benchmark.bundles.content import STUDENT, Contents, Progress, Writer
from benchmark.config import Data, validated
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution.options import Options
from benchmark.execution.survey import PRUNED, Survey, by_signature
from benchmark.tracking import Content, Point, Tracked, Tracker
from benchmark.train import checkpoint, teacher_store
from benchmark.train.teacher_store import Manifest

#: tags of a run that are of its runs folder, not of the run
_OF_FOLDER = ("runs_folder", "mlflow.parentRunId")


@dataclass(frozen=True)
class Choice:
    """What is to be packed: runs and checkpoints by signature, and stored teachers with their folders."""

    signatures: frozenset[str]
    teachers: tuple[tuple[Path, Manifest], ...]
    #: images that are loaded already
    data: DataSet | None = None


@dataclass
class Packed:
    """What was packed, and what was left out and why, for the user."""

    contents: Contents
    pieces: list[Path]
    #: (state, label, bytes) of every run, teacher and checkpoint
    rows: list[tuple[str, str, int]] = field(default_factory=list)
    #: what is worth knowing of single runs
    notes: list[str] = field(default_factory=list)
    #: (reason, label)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def everything(options: Options, tracker: Tracker | None) -> Choice:
    """Choose all that a runs folder holds, the runs of studies included."""
    signatures = {path.name for path in (options.runs / "work").glob("*") if path.is_dir()}
    if tracker is not None:
        with tracker.named_errors():
            signatures |= {run.signature for run in tracker.runs_in(list(tracker.experiments().values()))}
    return Choice(frozenset(signatures), tuple(teacher_store.manifests(options.teachers)))


def of_plan(survey: Survey) -> Choice:
    """Choose the runs of a plan and its teachers."""
    options, data = survey.options, survey.data
    found = (
        teacher_store.find(options.teachers, data, model, config.signature(data.digest, None))
        for model, config in survey.plan.teachers.items()
    )
    return Choice(frozenset(survey.signatures()), tuple(one for one in found if one is not None), data)


def pack(
    target: Path,
    options: Options,
    tracker: Tracker | None,
    choice: Choice,
    *,
    limit: int,
    with_students: bool = False,
    fp16: bool = False,
    created: datetime | None = None,
) -> Packed:
    """Write a bundle as `target`.001, .002, ... of at most `limit` bytes each.

    A run that is being trained is packed as it stands on the disk. `fp16` rounds the weights of teachers, and those of
    students, which `with_students` adds.

    Raises:
        UserError: when there is nothing to pack, a teacher is damaged or cannot be rounded, or a file not be written.
    """
    pieces.check_target(target)
    files.check_writable(target.parent, way_out="name another place")
    with tempfile.TemporaryFile(dir=target.parent) as archive, Writer(archive) as writer:
        job = _Job(options, tracker, writer, with_students, fp16)
        job.add_all(choice)
        if not job.writer.members:
            reasons = "; ".join(sorted({reason for reason, _ in job.left_out}))
            raise UserError(
                f"nothing to pack under {options.runs}{f': {reasons}' if reasons else ''}: run a suite first, or name"
                " the folder with --runs"
            )
        contents = job.writer.close("fp16" if fp16 else "fp32", created)
        written = pieces.split(archive, target, limit)
    return Packed(contents, written, job.rows, job.notes, job.left_out)


class _Job:
    """A bundle in the making."""

    def __init__(
        self, options: Options, tracker: Tracker | None, writer: Writer, with_students: bool, fp16: bool
    ) -> None:
        self.options, self.tracker, self.writer = options, tracker, writer
        self.with_students, self.fp16 = with_students, fp16
        self.rows: list[tuple[str, str, int]] = []
        self.notes: list[str] = []
        self.left_out: list[tuple[str, str]] = []
        #: signatures of what was left out
        self._explained: set[str] = set()
        self._loaded: dict[str, DataSet] = {}
        self._parents: dict[str, Content] = {}

    def add_all(self, choice: Choice) -> None:
        """Add all that was chosen and can be packed."""
        known = self._known(choice.signatures)
        open_runs: dict[str, Progress] = {}
        for signature in sorted(choice.signatures):
            run = known.get(signature)
            if run is None or _is_open(run):
                progress = self._add_checkpoint(signature, run)
                if progress is not None:
                    open_runs[signature] = progress
                elif run is not None and run.status == "RUNNING":
                    known |= self._known([signature])  # whoever trained it may have ended it just now
        for signature in sorted(known):
            if signature in open_runs or not _is_open(known[signature]):
                self._add_run(known[signature], open_runs.get(signature))
            elif signature not in self._explained:
                self._leave_out(signature, "nothing of it is saved yet", known[signature])
        for folder, manifest in sorted(choice.teachers, key=lambda one: one[1].file(one[0]).path):
            self._add_teacher(folder, manifest, known.get(manifest.signature or ""), choice.data)

    def _known(self, signatures: Iterable[str]) -> dict[str, Tracked]:
        if self.tracker is None:
            return {}
        with self.tracker.named_errors():
            return by_signature(self.tracker.runs_with(signatures))

    def _leave_out(self, signature: str, reason: str, run: Tracked | None) -> None:
        self._explained.add(signature)
        self.left_out.append((reason, _label(signature, run)))

    def _add_checkpoint(self, signature: str, run: Tracked | None) -> Progress | None:
        """Add the last whole checkpoint of an open run; return how far it is, None when there is none."""
        if run is not None and run.tags.get("failure") == PRUNED:
            self._leave_out(signature, "dropped by its study", run)
            return None
        path = self.options.work(signature) / "checkpoint"
        for file in (path, checkpoint.previous(path)):
            try:
                saved = file.read_bytes()  # replaced as a whole by whoever trains it
                progress = content.checkpoint_progress(saved, signature)
            except FileNotFoundError:
                continue
            except (UserError, OSError) as error:
                self._leave_out(signature, f"its checkpoint cannot be read: {error}", run)
                continue
            self.writer.add(f"checkpoints/{signature}/checkpoint", saved)
            label = _label(signature, run)
            self.rows.append(("checkpoint", label, len(saved)))
            if not files.is_free(self.options.lock_file(signature)):
                self.notes.append(f"{label}: is being trained; packed as it stood after epoch {progress[0]}")
            return progress
        return None

    def _add_run(self, run: Tracked, progress: Progress | None) -> None:
        assert self.tracker is not None
        before, prefix = self._size(), f"runs/{run.signature}"
        with tempfile.TemporaryDirectory() as folder, self.tracker.named_errors():
            place = Path(folder)
            points = [point for point in self.tracker.points(run.run_id) if _is_kept(point, progress)]
            if progress is None:
                self.tracker.download(run.run_id, place, without=() if self.with_students else (STUDENT,))
            fields = self._fields(run, place, progress)
            texts = {
                "metrics.csv": content.metrics_text(points).encode(),
                "run.json": (json.dumps(fields, indent=1) + "\n").encode(),
            }
            found = sorted(path for path in place.rglob("*") if path.is_file())
            artifacts = {f"{prefix}/artifacts/{path.relative_to(place).as_posix()}": path for path in found}
            try:  # what would be refused where it is merged is not packed
                content.checked_run(texts["run.json"], content.points_of(texts["metrics.csv"]), run.signature)
                if fault := next(filter(None, map(content.path_fault, artifacts)), None):
                    raise UserError(fault)
            except UserError as error:
                self._leave_out(run.signature, str(error), run)
                return
            for name, path in artifacts.items():
                is_rounded = self.fp16 and path.name == STUDENT
                source = _label(run.signature, run)
                self.writer.add(name, rounding.rounded_student(path, source) if is_rounded else path.read_bytes())
        for name, text in texts.items():
            self.writer.add(f"{prefix}/{name}", text)
        state = {"FINISHED": "finished run", "FAILED": "failed run"}.get(str(fields["status"]), "open run")
        self.rows.append((state, _label(run.signature, run), self._size() - before))

    def _size(self) -> int:
        return sum(member.bytes for member in self.writer.members)

    def _fields(self, run: Tracked, place: Path, progress: Progress | None) -> dict[str, Any]:
        """The run.json of a run whose artifacts lie in a folder."""
        assert self.tracker is not None
        about = self.tracker.content(run.run_id)
        status, tags = run.status, {key: value for key, value in about.tags.items() if key not in _OF_FOLDER}
        if progress is not None:  # also of a run whose process goes on, or was killed
            status, tags = "KILLED", {"failure_reason": "packed before its end", **tags, "failure": "retry"}
        experiment, experiment_tags = self.tracker.experiment_content(about.experiment_id)
        parent = self._parent(about.tags.get("mlflow.parentRunId"))
        return {
            "signature": run.signature,
            "experiment": experiment,
            "experiment_tags": experiment_tags,
            "parent": parent and parent.name,
            "parent_tags": {} if parent is None else _own(parent.tags),
            "name": about.name,
            "role": tags.get("role"),
            "status": status,
            "start_time": about.start_time,
            "end_time": about.end_time,
            "tags": tags,
            "params": dict(about.params),
            "config": _config(place),
            "data": about.data and asdict(about.data),
        }

    def _parent(self, run_id: str | None) -> Content | None:
        assert self.tracker is not None
        if run_id is not None and run_id not in self._parents:
            self._parents[run_id] = self.tracker.content(run_id)
        return None if run_id is None else self._parents[run_id]

    def _add_teacher(self, folder: Path, manifest: Manifest, run: Tracked | None, data: DataSet | None) -> None:
        file = manifest.file(folder)
        weights = file.path.read_bytes() if file.path.exists() else b""
        teacher_store.load_weights(file)  # a damaged one is named
        if self.fp16:
            config = self._config_of(manifest, run)
            images = self._images(manifest, config, data)
            device = torch.device(self.options.device)
            manifest, weights = rounding.rounded_teacher(folder, manifest, images, config, device)
        stem = f"teachers/{folder.name}/{file.path.stem}"
        self.writer.add(f"{stem}.json", manifest.text.encode())
        self.writer.add(f"{stem}.safetensors", weights)
        self.rows.append(("teacher", f"teacher {manifest.model} on {manifest.dataset}", len(weights)))
        if manifest.rounded_from is not None:
            self.notes.append(
                f"teacher {manifest.model}: rounded to fp16, {manifest.test_top1:.2f}% on the test set; students that"
                " it teaches are other runs than those of the teacher that it was made of"
            )

    def _config_of(self, manifest: Manifest, run: Tracked | None) -> Data:
        """The images that a teacher was measured on: those of its run, or else all of its data set's."""
        if run is not None and self.tracker is not None:
            with tempfile.TemporaryDirectory() as folder, self.tracker.named_errors():
                self.tracker.download(run.run_id, Path(folder), without=(STUDENT,))
                if (known := _config(Path(folder))) is not None:
                    return validated(Data, "data", dict(known.get("data", {})))
        return Data(name=manifest.dataset.partition("[")[0])

    def _images(self, manifest: Manifest, config: Data, data: DataSet | None) -> DataSet:
        """Load the images of a teacher. Raises UserError when they are not here."""
        if data is not None and data.digest == manifest.data_digest:
            return data
        if manifest.data_digest not in self._loaded:
            try:
                found = datasets.load(config, self.options.data_root, self.options.cache)
            except UserError as error:
                raise _unmeasured(manifest, str(error)) from error
            if found.digest != manifest.data_digest:
                raise _unmeasured(manifest, f"those of {found.name} here are others")
            self._loaded[manifest.data_digest] = found
        return self._loaded[manifest.data_digest]


def _unmeasured(manifest: Manifest, reason: str) -> UserError:
    return UserError(
        f"--fp16: the accuracy of the rounded {manifest.model} is measured on the images of {manifest.dataset}:"
        f" {reason}; name their folder with --data, or leave out --fp16"
    )


def _is_open(run: Tracked) -> bool:
    """Whether the run may go on: it is neither finished nor failed for good."""
    return run.status != "FINISHED" and not run.final_failure


def _is_kept(point: Point, progress: Progress | None) -> bool:
    """Whether a value travels: of an open run, those of epochs that its checkpoint has; the rest is trained again."""
    return progress is None or 1 <= point.step <= progress[0]


def _label(signature: str, run: Tracked | None) -> str:
    return f"run {signature}" if run is None else content.label_of(run.tags, signature)


def _own(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags of a pair's or a study's run that are as good elsewhere: not those that MLflow makes."""
    note = "mlflow.note.content"
    return {key: tags[key] for key in tags if key not in _OF_FOLDER and (key == note or not key.startswith("mlflow."))}


def _config(place: Path) -> dict[str, Any] | None:
    """The resolved configuration among a run's artifacts; None where it has none."""
    try:
        fields = json.loads((place / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
