"""Find out which runs of a plan are finished, resumable or missing, and which teachers are stored. Read-only."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from benchmark import files
from benchmark.config import Precision, RunConfig
from benchmark.datasets.base import DataSet, Known
from benchmark.errors import UserError
from benchmark.execution.hold import Hold, claims_of, leased_elsewhere
from benchmark.execution.options import Options
from benchmark.plan.fit import fit_of
from benchmark.plan.resolve import Plan, PlannedRun
from benchmark.tracking import Role, Tracked, Tracker
from benchmark.train import checkpoint, teacher_store
from benchmark.train.batches import splits
from benchmark.train.messages import TeacherFile

#: `waiting`: its teacher has no weights yet; `elsewhere`: another process holds it now, in this runs folder or by a
#: lease; `remote`: another runs folder's process that takes no lease does, or did; `dropped`: ended on request in this
#: process; the next one starts it again
State = Literal["finished", "failed", "dropped", "resume", "new", "waiting", "elsewhere", "remote"]
#: the MLflow tag `failure` of a run that was dropped
PRUNED = "pruned"
#: MLflow tag of a run that is trained under a lease: without one, nobody trains it any more
LEASED = "leased"
#: runs of whose other precision is asked: the first time a signature costs a query
_MAX_ASKED = 100


@dataclass
class Entry:
    """One run of the plan, or a teacher, and its state."""

    config: RunConfig
    role: Role
    label: str
    #: name of the parent run in MLflow
    pair_name: str
    #: None while the teacher it needs has no weights yet
    signature: str | None = None
    state: State = "waiting"
    epochs_done: int = 0
    #: steps of the next epoch that are done, and how many there are in an epoch, where that is known
    steps_done: int = 0
    steps_per_epoch: int = 0
    #: seconds of an epoch of the cohort that it was last trained in, where that was on this machine
    epoch_s: float | None = None
    run_id: str | None = None
    #: run that this one is nested in
    parent_id: str | None = None
    reason: str = ""
    #: epochs that MLflow has
    logged: set[int] = field(default_factory=set)
    #: final figures of a finished run, such as `final/last`
    figures: Mapping[str, float] = field(default_factory=dict)
    #: while this process trains the run
    hold: Hold | None = None
    #: an MLflow run of it that another runs folder left as RUNNING when its lease ended
    abandoned: str | None = None
    #: of a teacher: its finished MLflow run, where this runs folder does not have its weights
    finished_run: Tracked | None = None
    #: further tags in MLflow, and the run's name there; "" stands for its method and seed
    tags: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    @property
    def is_open(self) -> bool:
        """Whether this command still has to train the run."""
        return self.state in ("new", "resume", "waiting")

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken over the lease under which this one trains the run."""
        return self.hold is not None and self.hold.is_lost

    @property
    def progress(self) -> float:
        """Number of epochs done, with the part of the next one that is done."""
        return self.epochs_done + (self.steps_done / self.steps_per_epoch if self.steps_done else 0)

    @property
    def place(self) -> str:
        """Where its training stands, in words."""
        return checkpoint.place_of(self.epochs_done, self.steps_done, self.steps_per_epoch)

    def stand_at(self, epochs_done: int, steps_done: int = 0, steps_per_epoch: int = 0) -> None:
        """Set how much of the run is done."""
        self.epochs_done, self.steps_done, self.steps_per_epoch = epochs_done, steps_done, steps_per_epoch


class Survey:
    """States of a plan's runs and teachers, according to the files and MLflow."""

    def __init__(self, plan: Plan, options: Options, data: DataSet, tracker: Tracker | None) -> None:
        self.plan, self.options, self.data, self.tracker = plan, options, data, tracker
        self.teachers: dict[str, TeacherFile] = {}
        self.teacher_accuracy: dict[str, float] = {}
        #: teachers that are not stored yet, by model
        self.teacher_entries: dict[str, Entry] = {}
        self.entries = [_entry(run) for run in plan.runs]
        #: runs that are left here and finished with the other precision of their teachers, of the first hundred
        self.num_in_other_precision = 0
        #: owners of the leases that other processes hold, as they were at the last look
        self._leased: Mapping[str, str] = {}
        _check_sizes(plan, data)
        _check_fits(plan, data)

    def look(self) -> None:
        """Find the state of every run and teacher.

        Raises:
            UserError: for a damaged checkpoint, teacher or manifest, before anything is trained or overwritten.
        """
        tracked = self._tracked(self.signatures())
        self.teacher_entries.clear()
        for model, config in self.plan.teachers.items():
            entry = Entry(config, "teacher", f"teacher {model}", "teachers")
            entry.signature = config.signature(self.data.digest, None)
            self._look_at_teacher(entry, tracked)
            # killed between storing its weights and ending its run, which is still to be completed
            is_to_complete = entry.state == "resume"
            if model not in self.teachers or is_to_complete:
                self.teacher_entries[model] = entry
        for entry in self.entries:
            self._settle_if_possible(entry, tracked)
        self.num_in_other_precision = self._count_in_other_precision()

    @property
    def other_precision(self) -> Precision:
        """The precision in which the plan's teachers do not compute."""
        return "fp32" if self.plan.suite.teacher_precision == "bf16" else "bf16"

    def _count_in_other_precision(self) -> int:
        """Count runs that are left but for a default that depends on the device, which need not be this one."""
        left = (one for one in self.entries if one.is_open and one.config.teacher in self.teachers)
        signatures = []
        for entry in islice(left, _MAX_ASKED):
            config = entry.config.model_copy(update={"teacher_precision": self.other_precision})
            assert config.teacher is not None
            signatures.append(config.signature(self.data.digest, self.teachers[config.teacher].checksum))
        return sum(run.status == "FINISHED" for run in self._recorded(signatures).values())

    def look_again(self, entries: Sequence[Entry]) -> None:
        """Find the state of some runs and teachers, which other processes may have trained since the last look."""
        tracked = self._tracked({entry.signature for entry in entries if entry.signature is not None}, anew=True)
        for entry in entries:
            if entry.role == "teacher":
                self._look_at_teacher(entry, tracked)
            else:
                self._settle_if_possible(entry, tracked)

    def _look_at_teacher(self, entry: Entry, tracked: Mapping[str, Tracked]) -> None:
        """Find the state of a teacher's run, and use its weights when they are stored."""
        assert entry.signature is not None
        found = teacher_store.find(self.options.teachers, self.data, entry.config.student, entry.signature)
        if found is not None:
            self.use_teacher(entry.config.student, *found)
        self._settle(entry, None, tracked)
        if found is not None and (entry.state != "resume" or found[1].signature != entry.signature):
            entry.state = "finished"
        elif entry.state == "finished":  # its weights are to be fetched, or it is trained again, in a new run
            entry.finished_run = tracked[entry.signature]
            entry.state, entry.run_id, entry.parent_id = "new", None, None
            self._stand_at_checkpoint(entry)

    def use_teacher(self, model: str, folder: Path, manifest: teacher_store.Manifest) -> None:
        """Use a stored teacher. Raises UserError when its weights are damaged."""
        file = manifest.file(folder)
        teacher_store.load_weights(file)
        self.teachers[model] = file
        self.teacher_accuracy[model] = manifest.test_top1

    def settle_waiting(self) -> None:
        """Set the signature of waiting runs whose teacher is now stored, or has failed.

        Whether MLflow has them already is asked once they are locked.
        """
        for entry in self.entries:
            if entry.state == "waiting":
                self._settle_if_possible(entry, {})

    def free(self, entries: Sequence[Entry]) -> list[Entry]:
        """Choose the runs that no other process trains. Raises UserError when the database of the leases fails."""
        if entries:
            self._leased = leased_elsewhere(self.options)
        return [entry for entry in entries if self._is_free(entry)]

    def _is_free(self, entry: Entry) -> bool:
        assert entry.signature is not None
        is_unlocked = entry.signature not in self._leased and files.is_free(self.options.lock_file(entry.signature))
        return entry.hold is not None or is_unlocked

    def _tracked(self, signatures: Iterable[str], anew: bool = False) -> dict[str, Tracked]:
        """Find the MLflow runs that have these signatures, by signature, and who holds a lease."""
        # the leases first: one that is released in between is of a run whose end MLflow has by then
        self._leased = leased_elsewhere(self.options)
        return self._recorded(signatures, anew)

    def _recorded(self, signatures: Iterable[str], anew: bool = False) -> dict[str, Tracked]:
        if self.tracker is None:
            return {}
        with self.tracker.named_errors():
            return by_signature(self.tracker.runs_with(signatures, anew), self.options.known_identity())

    def signatures(self) -> Iterator[str]:
        """Signatures of the plan's teachers, and of the students whose teacher is stored."""
        checksums: dict[str | None, str | None] = {None: None}
        for model, config in self.plan.teachers.items():
            signature = config.signature(self.data.digest, None)
            yield signature
            if (found := teacher_store.find(self.options.teachers, self.data, model, signature)) is not None:
                checksums[model] = found[1].checksum
        for entry in self.entries:
            if entry.config.teacher in checksums:
                yield entry.config.signature(self.data.digest, checksums[entry.config.teacher])

    def _is_ours(self, run: Tracked) -> bool:
        """Whether the run belongs to this runs folder; other folders' processes are unknown here."""
        return run.tags.get("runs_folder") == self.options.known_identity()

    def _settle_if_possible(self, entry: Entry, tracked: Mapping[str, Tracked]) -> None:
        teacher = entry.config.teacher
        if teacher is None or teacher in self.teachers:
            self._settle(entry, None if teacher is None else self.teachers[teacher].checksum, tracked)
        elif (of_teacher := self.teacher_entries[teacher]).state == "failed":
            entry.state, entry.reason = "failed", f"its teacher {teacher} failed: {of_teacher.reason}"

    def _stand_at_checkpoint(self, entry: Entry) -> None:
        """Let a run that is to be trained go on from its checkpoint, if it has one."""
        assert entry.signature is not None
        path = self.options.work(entry.signature) / "checkpoint"
        if path.exists():
            state = checkpoint.load(path, files.say)
            entry.stand_at(state["epochs_done"], state["steps_done"], state["steps_per_epoch"])
            entry.state = "resume"

    def _settle(self, entry: Entry, teacher_checksum: str | None, tracked: Mapping[str, Tracked]) -> None:
        """Set the signature and state of an entry."""
        entry.signature = entry.config.signature(self.data.digest, teacher_checksum)
        entry.state, entry.reason, entry.run_id, entry.parent_id, entry.figures = "new", "", None, None, {}
        entry.abandoned = entry.finished_run = None
        entry.stand_at(0)
        entry.logged = set()  # a run dropped since the last look left nothing
        known, identity = tracked.get(entry.signature), self.options.known_identity()
        if known is not None:
            entry.run_id, entry.parent_id = known.run_id, known.tags.get("mlflow.parentRunId")
            if known.tags.get("host") == platform.node():
                entry.epoch_s = known.metrics.get("time/epoch_s")
            if known.status == "FINISHED":
                entry.state, entry.figures = "finished", known.metrics
            elif known.final_failure and not self.options.retry_failed:
                entry.state, entry.reason = "failed", known.tags.get("failure_reason", "")
            elif known.status == "RUNNING" and not self._is_ours(known) and entry.signature not in self._leased:
                if LEASED in known.tags and claims_of(self.options) is not None:
                    entry.abandoned = known.run_id
                else:
                    entry.state, entry.reason = "remote", f"on {known.tags.get('host', 'another machine')}"
        if entry.state == "new" and not self._is_free(entry):
            entry.state, entry.reason = "elsewhere", self._leased.get(entry.signature, "")
        if entry.state == "new":
            self._stand_at_checkpoint(entry)
        is_anothers = known is not None and known.tags.get("runs_folder", identity) != identity
        if known is not None and (
            (entry.state == "new" and _is_over(known)) or (entry.state in ("new", "resume") and is_anothers)
        ):
            # from scratch, or from a checkpoint that the old run does not stem from: that one stays on record
            entry.run_id = entry.parent_id = None


def by_signature(runs: Iterable[Tracked], identity: str | None = None) -> dict[str, Tracked]:
    """Choose one run per signature; `runs` are newest first.

    A finished one, or else the newest of those that are running or of the runs folder that `identity` names, or else
    the newest.
    """

    def rank(run: Tracked) -> int:
        return (
            2 if run.status == "FINISHED" else int(run.status == "RUNNING" or run.tags.get("runs_folder") == identity)
        )

    best: dict[str, Tracked] = {}
    for run in runs:
        if run.signature not in best or rank(run) > rank(best[run.signature]):
            best[run.signature] = run
    return best


def _is_over(run: Tracked) -> bool:
    """Whether the run failed or was dropped, as opposed to interrupted."""
    return run.status == "FAILED" or (run.status == "KILLED" and run.tags.get("failure") == PRUNED)


def _entry(run: PlannedRun) -> Entry:
    config = run.config
    pair = f"{config.teacher} -> {config.student}" if config.teacher else f"{config.student} alone"
    return Entry(config, "student", run.label, pair, tags=run.tags, title=run.title)


def _check_sizes(plan: Plan, data: DataSet) -> None:
    """Raise UserError when a batch would hold too few images, or none."""
    count = len(splits(data, plan.data).train)
    for config in [*plan.teachers.values(), *(run.config for run in plan.runs)]:
        if config.recipe.drop_last and count < config.recipe.batch_size:
            raise UserError(
                f"recipe.batch_size: {data.name} has {count} train images, fewer than one batch of"
                f" {config.recipe.batch_size}, and recipe.drop_last leaves no batch; set a smaller batch_size"
            )
        last = count % config.recipe.batch_size
        if not config.recipe.drop_last and 0 < last < config.ranks:
            raise UserError(
                f"ranks: the last batch of {count} train images has {last}, fewer than the {config.ranks} ranks that"
                " share it; add --set recipe.drop_last=true"
            )


def _check_fits(plan: Plan, data: DataSet) -> None:
    """Raise UserError for a method that cannot run on its pair at the size of these images, before a teacher trains."""
    seen = Known(data.image_size, data.num_classes)
    found = {(run.config.method, run.pair.name): fit_of(run.config, seen).misfit for run in plan.runs}
    if misfits := [f"{method} cannot run on {pair}: {misfit}" for (method, pair), misfit in found.items() if misfit]:
        raise UserError(
            f"with images of {data.image_size} x {data.image_size} {'; '.join(misfits)}; choose others with --methods"
            " and --pairs, or let the data set state the size of its images (`Known`), which leaves these runs out"
        )
