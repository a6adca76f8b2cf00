"""The loop over batches; the only one. Students, and teachers before them, all train here."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save as serialize

from benchmark import atomic, checkpoint, datasets, teachers
from benchmark.batches import TrainStream, eval_batches, on_device, splits
from benchmark.datasets.base import DataSet
from benchmark.environment import set_numerics
from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, evaluate
from benchmark.jobs import CohortJob, EpochDone, Event, LaneFailed, LaneFinished, LaneJob, Progress, Started, Stopped
from benchmark.lane import Lane, NonFiniteLoss, weights_of
from benchmark.teacher import BatchTeacher

#: a checkpoint is written at an epoch's end when the last one is at least this old, and always at the last epoch
CHECKPOINT_SECONDS = 30.0
PROGRESS_SECONDS = 0.5


class _Running:
    """A lane with the job it came from and its unsaved state."""

    def __init__(self, job: LaneJob, lane: Lane) -> None:
        self.job, self.lane = job, lane
        self.unsaved: dict[str, Any] | None = None
        self.evaluation: Evaluation | None = None

    def save(self) -> None:
        """Write the state of the last finished epoch, unless it is on disk already."""
        if self.unsaved is not None:
            checkpoint.save(self.job.checkpoint, {"signature": self.job.signature, **self.unsaved})
            self.unsaved = None


def train_cohort(
    job: CohortJob,
    report: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
    data: DataSet | None = None,
) -> None:
    """Train the lanes of a cohort to their last epoch, or until `stop` says so.

    Every batch is made once and the teacher sees it once. A lane that fails is reported and leaves; the others go on.
    A damaged checkpoint, data set or teacher raises UserError before any training.
    """
    device = torch.device(job.device)
    set_numerics(device, job.threads)
    config = job.lanes[0].config
    if data is None:
        data = datasets.load(config.data, job.data_root, job.cache)
    parts = splits(data, config.data)
    train_images, test_images = on_device(data.train, device), on_device(data.test, device)

    running = [_start(lane, data, device) for lane in job.lanes]
    if len(begun := {one.lane.epochs_done for one in running}) != 1:
        raise ValueError(f"lanes of cohort '{job.name}' stand at different epochs: {sorted(begun)}")
    teacher = None
    if job.teacher is not None:
        network = teachers.load_network(job.teacher, data)
        requests = [request for one in running for request in one.lane.requests if one.lane.distiller.needs_teacher]
        teacher = BatchTeacher(network, requests, device, config.precision)
    views = sorted({request.view for one in running for request in one.lane.requests}, reverse=True)
    stream = TrainStream(data, train_images, parts.train, config.recipe, config.seed, views, device)
    report(Started(begun.pop(), config.recipe.epochs, stream.num_batches, len(parts.train)))

    # the teacher never changes: its logits for the test view are computed once, not at every evaluation
    teacher_logits: dict[str, list[torch.Tensor]] = {}

    def score(lanes: list[_Running], split: str) -> list[Evaluation]:
        images, members = (train_images, parts.val) if split == "val" else (test_images, parts.test)
        if teacher is not None and split not in teacher_logits:
            batches = eval_batches(data, images, members, device)
            teacher_logits[split] = [teacher.logits(batch.views["weak"]) for batch in batches]
        for one in lanes:
            one.lane.network.eval()
        return evaluate(
            [one.lane.logits for one in lanes],
            eval_batches(data, images, members, device),
            data.num_classes,
            device,
            [teacher_logits.get(split) if one.lane.distiller.needs_teacher else None for one in lanes],
        )

    last_saved = last_progress = time.monotonic()
    for epoch in range(running[0].lane.epochs_done + 1, config.recipe.epochs + 1):
        started = time.monotonic()
        for one in running:
            one.lane.start_epoch(epoch)
        for step, batch in enumerate(stream.epoch(epoch), start=1):
            shown = teacher.outputs(batch.views) if teacher is not None else {}
            for one in list(running):
                try:
                    one.lane.step(batch.views, batch.target_B, shown, epoch)
                except Exception as error:
                    running.remove(one)
                    report(_failure(one, error))
            if not running:
                return
            if stop():
                for one in running:
                    one.save()
                report(Stopped(epoch - 1))
                return
            if time.monotonic() - last_progress > PROGRESS_SECONDS:
                last_progress = time.monotonic()
                report(Progress(epoch, step))
        running = [one for one in running if _finish_epoch(one, epoch, report)]
        if not running:
            return
        seconds = time.monotonic() - started
        if config.is_evaluated(epoch):
            for split in ("test", *(("val",) if len(parts.val) else ())):
                for one, found in zip(list(running), score(running, split), strict=True):
                    one.lane.history[-1] |= found.metrics(split)
                    if split == "test":
                        one.evaluation = found
                    if not found.is_finite and one in running:
                        running.remove(one)
                        one.lane.history.pop()
                        report(_failure(one, NonFiniteLoss(f"the logits were not finite after epoch {epoch}")))
        if not running:
            return
        for one in running:
            if device.type == "cuda":  # steps were only launched: an equal share of the epoch is what is known
                one.lane.epoch_seconds = seconds / len(running)
            one.lane.train_seconds += one.lane.epoch_seconds
            row = one.lane.history[-1]
            row["time/epoch_s"] = seconds
            row["time/step_ms"] = 1000 * one.lane.epoch_seconds / stream.num_batches
            one.unsaved = one.lane.state()
        is_last = epoch == config.recipe.epochs
        if is_last or time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            last_saved = time.monotonic()
            for one in running:
                one.save()
        report(
            EpochDone(epoch, {one.job.signature: one.lane.history[-1] for one in running}, len(parts.train) / seconds)
        )
    for one in running:
        # a run that was killed after its last checkpoint comes here without having trained
        report(_complete(one, one.evaluation or score([one], "test")[0]))


def _start(job: LaneJob, data: DataSet, device: torch.device) -> _Running:
    lane = Lane(job.config, data.num_classes, data.image_size, device)
    if job.checkpoint.exists():
        state = checkpoint.load(job.checkpoint)
        if state["signature"] != job.signature:
            raise UserError(f"checkpoint {job.checkpoint} belongs to another run; delete it to start this run again")
        lane.load_state(state)
    return _Running(job, lane)


def _finish_epoch(one: _Running, epoch: int, report: Callable[[Event], None]) -> bool:
    try:
        one.lane.finish_epoch(epoch)
    except NonFiniteLoss as error:
        report(_failure(one, error))
        return False
    return True


def _failure(one: _Running, error: Exception) -> LaneFailed:
    if isinstance(error, NonFiniteLoss):
        return LaneFailed(one.job.signature, str(error), final=True, history=one.lane.history)
    one.save()
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    return LaneFailed(one.job.signature, reason, final=False, history=one.lane.history)


def _complete(one: _Running, evaluation: Evaluation) -> LaneFinished:
    weights = serialize(weights_of(one.lane.network), metadata={"signature": one.job.signature})
    atomic.write(one.job.weights, weights)
    return LaneFinished(
        one.job.signature, one.lane.history, list(evaluation.per_class), one.lane.train_seconds, one.job.weights
    )
