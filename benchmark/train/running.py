"""A lane with the job it came from and its files: started from its checkpoint, saved, completed."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

import models
from benchmark import files
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train import checkpoint
from benchmark.train.evaluate import Evaluation
from benchmark.train.lane import Lane
from benchmark.train.messages import LaneFinished, LaneJob
from benchmark.train.ranks import Ranks
from distillers.base import UnfitPair


class Running:
    """A lane with the job it came from and its unsaved state."""

    def __init__(self, job: LaneJob, lane: Lane, seconds_before: float) -> None:
        self.job, self.lane = job, lane
        #: seconds of the unfinished epoch before the checkpoint that the lane came from
        self.seconds_before = seconds_before
        self.unsaved: dict[str, Any] | None = None
        self.evaluation: Evaluation | None = None

    @classmethod
    def start(
        cls,
        job: LaneJob,
        data: DataSet,
        targets_N: Tensor,
        device: torch.device,
        teacher: models.Network | None,
        ranks: Ranks,
    ) -> Running:
        """Make a lane, which goes on from its checkpoint if there is one.

        Raises:
            UserError: when its method does not fit its networks, or the checkpoint is damaged or another run's.
        """
        try:
            lane = Lane(job.config, data.num_classes, data.image_size, device, teacher, targets_N, ranks)
        except UnfitPair as reason:
            pair = f"{job.config.teacher}:{job.config.student}"
            raise UserError(
                f"{job.config.method} cannot run on {pair}: {reason}; leave it out of --methods"
            ) from reason
        state = ranks.agreed(lambda: _stored_state(job))
        if state is None:
            return cls(job, lane, 0.0)
        if state["signature"] != job.signature:
            raise UserError(f"checkpoint {job.checkpoint} belongs to another run; delete it to start this run again")
        try:
            lane.load_state(state)
            return cls(job, lane, float(state.get("seconds_before", 0.0)))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint {job.checkpoint} does not fit its run ({type(error).__name__}: {error}); delete it to"
                " start this run again"
            ) from error

    def save(self) -> None:
        """Write the last state that was kept, unless it is on disk already; the first rank does for all."""
        if self.unsaved is not None and self.lane.ranks.is_first:
            checkpoint.save(self.job.checkpoint, {"signature": self.job.signature, **self.unsaved})
            self.unsaved = None

    def complete(self, evaluation: Evaluation) -> LaneFinished:
        """Write the weights of a lane that is at its last epoch, and return what is reported of it."""
        weights = serialize(self.lane.tested_weights(), metadata={"signature": self.job.signature})
        files.write(self.job.weights, weights)
        per_class = list(evaluation.per_class)
        return LaneFinished(self.job.signature, self.lane.history, per_class, self.lane.train_seconds, self.job.weights)


def _stored_state(job: LaneJob) -> dict[str, Any] | None:
    if not job.checkpoint.exists():
        return None
    # the damaged one must not become the one before, which it would at the next save
    return checkpoint.load(job.checkpoint, lambda fault: checkpoint.restore(job.checkpoint))
