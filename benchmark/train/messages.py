"""Messages between the command and the processes that train: a job one way, events the other. Plain, picklable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.plugins import Plugin


@dataclass(frozen=True)
class TeacherFile:
    """A stored teacher: its weights and the checksum they must have."""

    model: str
    path: Path
    checksum: str


@dataclass(frozen=True)
class LaneJob:
    """One run to train: its configuration and where its files go."""

    signature: str
    config: RunConfig
    checkpoint: Path
    #: final weights, written when the run is complete
    weights: Path


@dataclass(frozen=True)
class CohortJob:
    """Lanes that train together; all share data, batches, seed, and the epochs and steps that are done."""

    name: str
    lanes: tuple[LaneJob, ...]
    teacher: TeacherFile | None
    data_root: Path
    cache: Path
    device: str
    #: largest size of a view cache, GB; None: half of the free disk space
    cache_gb: float | None = None
    #: threads per process, fixed in the plan: results are bit-equal at equal threads
    threads: int = 1
    #: what the images must be, those that the command saw: runs are named after them; None: whatever is found
    data_digest: str | None = None
    #: what the command has loaded, which the process that trains needs as well
    plugins: tuple[Plugin, ...] = ()

    @property
    def epochs(self) -> int:
        """Number of epochs, the same for every lane."""
        return self.lanes[0].config.recipe.epochs

    @property
    def ranks(self) -> int:
        """Number of processes that train it together."""
        return self.lanes[0].config.ranks

    @property
    def num_lanes(self) -> int:
        """Number of students."""
        return len(self.lanes)


@dataclass(frozen=True)
class Started:
    """A cohort begins: `epochs_done` of its epochs are already done, and `steps_done` steps of the next one."""

    epochs_done: int
    steps_per_epoch: int
    #: where it trains, as `machine.describe_device` and `machine.describe_numerics` write it
    device: str
    machine: str
    steps_done: int = 0
    #: name of the host where it trains; None: the command's own
    host: str | None = None


@dataclass(frozen=True)
class Note:
    """A remark for the user on how a cohort runs; no number depends on it."""

    text: str


@dataclass(frozen=True)
class StepsDone:
    """A cohort took steps within an epoch."""

    epoch: int
    step: int
    #: seconds that it would take, at most, from being asked to stop until all lanes are saved
    stopping_s: float = 0.0


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over: one row of metrics per lane that is still training."""

    epoch: int
    rows: dict[str, dict[str, float]]
    #: training images per second, each counted once however many lanes see it
    images_per_s: float
    #: as that of `StepsDone`
    stopping_s: float = 0.0


@dataclass(frozen=True)
class LaneFinished:
    """A run is complete; its weights are on disk."""

    signature: str
    history: list[dict[str, float]]
    #: accuracy per class on the test set, on the validation split for a tuning run
    per_class: list[float]
    train_seconds: float
    weights: Path


@dataclass(frozen=True)
class LaneFailed:
    """A run ended with an error. Final when the loss was not finite; otherwise the next start retries the run."""

    signature: str
    reason: str
    final: bool
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class LaneDropped:
    """A run was ended on request, before its last epoch; its files are deleted."""

    signature: str
    #: rows of its finished epochs
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Stopped:
    """The cohort stopped on request after `epochs_done` epochs and `steps_done` steps of the next, all lanes saved."""

    epochs_done: int
    steps_done: int = 0
    steps_per_epoch: int = 0


@dataclass(frozen=True)
class CohortEnded:
    """A cohort has ended; its lanes have been reported."""


@dataclass(frozen=True)
class CohortCrashed:
    """A cohort could not continue; its unfinished lanes are at their last checkpoint."""

    reason: str
    #: whether the user can fix the cause (a damaged file, ...), as opposed to a bug
    is_user_error: bool


#: everything that the loop reports
Event = Started | Note | StepsDone | EpochDone | LaneFinished | LaneFailed | LaneDropped | Stopped
#: everything that an engine reports: the loop's events, then how the cohort ended
EngineEvent = Event | CohortEnded | CohortCrashed
