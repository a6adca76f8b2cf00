"""Take bundles into a runs folder, by signature and under the run's lock; again, it changes nothing.

Nothing is taken before everything of all bundles was checked (`content.opened`). A run is copied out of sight, and
becomes a run like any other by one call: after a kill, the next merge completes what is whole, and deletes the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark import files, saved_views
from benchmark.bundles.content import Bundle, Progress, RunRecord, label_of, progress_of
from benchmark.config import RunConfig
from benchmark.execution import pair_means
from benchmark.execution.hold import held
from benchmark.execution.options import Options
from benchmark.execution.reconcile import end_parents
from benchmark.execution.survey import PRUNED
from benchmark.saved_views import VARIANT
from benchmark.tracking import Copy, Tracked, Tracker
from benchmark.train import checkpoint, teacher_store
from benchmark.train.teacher_store import Manifest

Kind = Literal["finished run", "failed run", "open run", "checkpoint", "teacher"]
Fate = Literal["taken", "here already", "left out"]
_HELD = "another process trains it now: merge again when it has ended"


@dataclass(frozen=True)
class Outcome:
    """What became of a run, a teacher or a checkpoint of a bundle."""

    kind: Kind
    label: str
    fate: Fate
    reason: str = ""

    @property
    def is_held(self) -> bool:
        """Whether merging again, later, takes it."""
        return self.reason == _HELD


@dataclass(frozen=True)
class Local:
    """What a runs folder has of a signature."""

    runs: Sequence[Tracked]
    #: how far its checkpoint is; None without one
    progress: Progress | None
    #: name of the host that trains it in another runs folder on the same server
    trained_on: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether one of its runs is finished."""
        return any(run.status == "FINISHED" for run in self.runs)


def decided(record: RunRecord | None, progress: Progress | None, local: Local) -> tuple[Fate, str]:
    """Decide on a run of a bundle, which is open when it comes with a checkpoint's `progress`."""
    if local.is_finished:
        return "here already", ""
    if local.trained_on is not None:
        return "left out", f"it is being trained on {local.trained_on}"
    if record is not None and record.status == "FINISHED":
        return "taken", ""
    has_failed = any(run.final_failure for run in local.runs)
    if progress is None:
        if has_failed:
            return "here already", ""
        return ("left out", "it goes on here") if local.runs or local.progress is not None else ("taken", "")
    if has_failed:
        return "left out", "it failed here for good: --retry-failed starts it again"
    is_unrecorded = record is not None and not any(map(_is_replaced, local.runs))
    if local.progress is None or progress > local.progress or (progress == local.progress and is_unrecorded):
        return "taken", ""
    here, there = (
        f"epoch {epochs}{f', step {steps}' if steps else ''}" for epochs, steps in (local.progress, progress)
    )
    return "here already", "" if here == there else f"further on here, after {here}; the bundle's is after {there}"


def _is_replaced(run: Tracked) -> bool:
    """Whether a run gives way to the bundle's: not one that its study has dropped, which stays on record."""
    return run.tags.get("failure") != PRUNED


def merge(bundles: Iterable[Bundle], options: Options, tracker: Tracker) -> list[Outcome]:
    """Take what bundles have and this runs folder lacks; return what became of everything in them.

    Raises:
        UserError: when the store or the folder fails half way: the same command goes on.
    """
    with files.locked(options.runs / "locks" / "merge"), tracker.named_errors():
        job = _Job(options, tracker)
        for bundle in bundles:
            job.take(bundle)
        job.end()
    return job.outcomes


class _Job:
    """A merge into one runs folder."""

    def __init__(self, options: Options, tracker: Tracker) -> None:
        self.options, self.tracker = options, tracker
        self.identity = options.identity()
        self.outcomes: list[Outcome] = []
        #: copies by id, of this merge and of one that was killed
        self._copies = {copy.run_id: copy for copy in tracker.copies(self.identity)}
        self._parents: dict[tuple[str, str], str] = {}
        #: what the figures of pairs may have changed by
        self._variants: list[pair_means.Variant] = []

    def take(self, bundle: Bundle) -> None:
        """Take a bundle, one signature after the other."""
        teachers = {manifest.signature or place: place for place, manifest in bundle.teachers.items()}
        for signature in sorted({*bundle.runs, *bundle.checkpoints, *teachers}):
            place = teachers.get(signature)
            with held(self.options, signature.replace("/", "-")) as is_held:
                if signature in bundle.runs or signature in bundle.checkpoints:
                    self._take_run(bundle, signature, is_held)
                if place is not None:
                    self._take_teacher(bundle, place, is_held)

    def end(self) -> None:
        """Do what concerns the whole store: figures of pairs, what is remembered of it, ends of pairs' runs."""
        pair_means.update(self.tracker, self.options, self._variants)
        if self._copies:
            self.tracker.forget_known()
        for copy in self._copies.values():
            if copy.is_whole:
                self.tracker.forget_copy(copy.run_id)
            else:  # of a merge that was killed
                self.tracker.delete(copy.run_id)
        end_parents(self.tracker, self.identity)

    # -- runs and checkpoints ------------------------------------------------------------------------------------------

    def _take_run(self, bundle: Bundle, signature: str, is_held: bool) -> None:
        record, progress = bundle.runs.get(signature), bundle.checkpoints.get(signature)
        label = f"run {signature}" if record is None else label_of(record.tags, signature)
        fate: Fate = "left out"
        reason = _HELD
        if is_held:
            local = self._local(signature)
            fate, reason = decided(record, progress, local)
            if fate == "taken":
                self._put(bundle, signature, local)
            elif record is not None and (whole := [run.run_id for run in local.runs if run.run_id in self._copies]):
                self._note_variant(whole[0], record)  # a merge was killed since it was taken
        if record is not None:
            kind: Kind = "failed run" if record.status == "FAILED" else "finished run"
            self.outcomes.append(Outcome("open run" if progress is not None else kind, label, fate, reason))
        if progress is not None:
            self.outcomes.append(Outcome("checkpoint", label, fate, reason))

    def _local(self, signature: str) -> Local:
        runs = self.tracker.runs_with([signature], anew=True)
        other = next(
            (run for run in runs if run.status == "RUNNING" and run.tags.get("runs_folder") != self.identity), None
        )
        path = self.options.work(signature) / "checkpoint"
        progress = progress_of(checkpoint.load(path, files.say)) if path.exists() else None
        return Local(runs, progress, None if other is None else other.tags.get("host", "another machine"))

    def _put(self, bundle: Bundle, signature: str, local: Local) -> None:
        """Put a run and its checkpoint in the place of what is here of it."""
        record = bundle.runs.get(signature)
        is_open = signature in bundle.checkpoints
        run_id = "" if record is None else self._copied(bundle, record)
        if record is not None:
            for run in local.runs:
                if _is_replaced(run):
                    self.tracker.delete(run.run_id)
        work = self.options.work(signature)
        if is_open:
            files.write(work / "checkpoint", bundle.read(f"checkpoints/{signature}/checkpoint"))
            checkpoint.previous(work / "checkpoint").unlink(missing_ok=True)
        if record is not None:
            content = record.content("", self._tags(record))
            self.tracker.end_copy(run_id, record.status, content)
            self._copies[run_id] = Copy(run_id, is_whole=True)
            self._note_variant(run_id, record)
        if not is_open:
            shutil.rmtree(work, ignore_errors=True)

    def _copied(self, bundle: Bundle, record: RunRecord) -> str:
        """Copy all of a run but its tags; return its id."""
        experiment = self.tracker.experiment_like(record.experiment, record.experiment_tags)
        content = record.content(experiment, {})
        run_id = self.tracker.begin_copy(self.identity, content)
        self.tracker.fill_copy(run_id, content, bundle.points(record.signature))
        self.tracker.artifacts(run_id, dict(bundle.artifacts(record.signature)))
        return run_id

    def _tags(self, record: RunRecord) -> dict[str, str]:
        """Tags of a run, as a run of this folder."""
        own = {"runs_folder": self.identity}
        if record.parent is not None:
            own["mlflow.parentRunId"] = self._parent(record)
        return {**record.tags, **own}

    def _parent(self, record: RunRecord) -> str:
        assert record.parent is not None
        key = record.experiment, record.parent
        if key not in self._parents:
            experiment = self.tracker.experiment_like(record.experiment, record.experiment_tags)
            tags = {**record.parent_tags, "runs_folder": self.identity}
            self._parents[key] = self.tracker.parent(experiment, record.parent, tags)
        return self._parents[key]

    def _note_variant(self, run_id: str, record: RunRecord) -> None:
        """Let the figures of the run's pair be computed again."""
        is_result = record.status == "FINISHED" and record.role == "student"
        if not is_result or record.config is None or record.experiment.startswith(saved_views.STUDIES):
            return
        try:
            config = RunConfig.model_validate(record.config)
            config.signature("", None)
        except ValueError:  # a method or fields that this version does not know: its figures are those of its own
            return
        parent = self.tracker.tags(run_id).get("mlflow.parentRunId")
        if parent is not None:
            name = record.tags.get(VARIANT, config.method)
            self._variants.append(pair_means.Variant(parent, name, config, record.tags["data_digest"]))

    # -- teachers ------------------------------------------------------------------------------------------------------

    def _take_teacher(self, bundle: Bundle, place: str, is_held: bool) -> None:
        manifest = bundle.teachers[place]
        folder = self.options.teachers / place.partition("/")[0]
        fate, reason = self._decided_on(manifest, folder) if is_held else ("left out", _HELD)
        if fate == "taken":
            own = [run.run_id for run in self.tracker.runs_with(filter(None, [manifest.signature]), anew=True)]
            taken = manifest.model_copy(update={"mlflow_run": own[0] if own else None})
            teacher_store.put(folder, taken, bundle.read(f"teachers/{place}.safetensors"))
        label = f"teacher {manifest.model} on {manifest.dataset}"
        self.outcomes.append(Outcome("teacher", label, fate, reason))

    def _decided_on(self, manifest: Manifest, folder: Path) -> tuple[Fate, str]:
        """Decide on a teacher, which is verified already."""
        for _, known in teacher_store.manifests(self.options.teachers):
            if (known.data_digest, known.model, known.signature) != (
                manifest.data_digest, manifest.model, manifest.signature,
            ):  # fmt: skip
                continue
            if known.checksum == manifest.checksum:
                return "here already", ""
            return "left out", (
                f"another of this recipe is here and stays, {known.checksum[:12]} ({known.test_top1:.2f}%); students"
                f" of the bundle's, {manifest.checksum[:12]} ({manifest.test_top1:.2f}%), are runs of their own"
            )
        if (path := manifest.file(folder).path.with_suffix(".json")).exists():
            return "left out", f"{path} is of other images, and stays"
        return "taken", ""
