"""The only training loop: students train here, and teachers before them."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as serialize
from torch import Tensor

import models
from benchmark import datasets, files
from benchmark.datasets.base import DataSet, Images
from benchmark.errors import UserError
from benchmark.machine import describe_device, describe_numerics, release_freed_memory, set_numerics
from benchmark.train import checkpoint, teacher_store
from benchmark.train.batches import Batch, TrainStream, eval_batches, on_device, splits, trained_targets
from benchmark.train.cuda_graphs import Inputs
from benchmark.train.evaluate import Evaluation, evaluate
from benchmark.train.heads import Request
from benchmark.train.lane import Lane, NonFiniteLoss
from benchmark.train.messages import (
    CohortJob,
    EpochDone,
    Event,
    LaneDropped,
    LaneFailed,
    LaneFinished,
    LaneJob,
    Note,
    Started,
    StepsDone,
    Stopped,
)
from benchmark.train.ranks import ALONE, Ranks
from benchmark.train.step import CohortStep, named, unnamed
from benchmark.train.teacher import BatchTeacher
from benchmark.train.view_cache import CachedTeacher, CacheRefused, open_caches
from distillers import Outputs
from distillers.base import UnfitPair

#: a checkpoint is written between two steps when the last one is at least this old, and so old that saving takes
#: no more than a share of the time; always at the last epoch, and when asked to stop
CHECKPOINT_SECONDS, SAVING_SHARE = 30.0, 0.05
PROGRESS_SECONDS = 0.5
#: until a save is measured: seconds that a checkpoint takes, and bytes a second
_CHECKPOINT_S, _CHECKPOINT_BYTES_PER_S = 0.05, 1e8


class _Orders(NamedTuple):
    """What is to be done after a step; decided by the first rank, for all of them."""

    must_stop: bool
    unwanted: frozenset[str]
    must_save: bool


class _Halted(Exception):
    """An evaluation was left half way, because the cohort has to stop."""


class _Running:
    """A lane with the job it came from and its unsaved state."""

    def __init__(self, job: LaneJob, lane: Lane, seconds_before: float) -> None:
        self.job, self.lane = job, lane
        #: seconds of the unfinished epoch before the checkpoint that the lane came from
        self.seconds_before = seconds_before
        self.unsaved: dict[str, Any] | None = None
        self.evaluation: Evaluation | None = None

    def save(self) -> None:
        """Write the last state that was kept, unless it is on disk already; the first rank does for all."""
        if self.unsaved is not None and self.lane.ranks.is_first:
            checkpoint.save(self.job.checkpoint, {"signature": self.job.signature, **self.unsaved})
            self.unsaved = None


def train_cohort(
    job: CohortJob,
    report: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
    data: DataSet | None = None,
    unwanted: Collection[str] = (),
    ranks: Ranks = ALONE,
) -> None:
    """Train the lanes of a cohort to their last epoch, or until `stop` returns True.

    `unwanted` are signatures of lanes to drop; it may grow during training, and is checked after every step. With
    several `ranks` every one of them calls this: the first one's `stop` and `unwanted` count, and it alone reports.

    Every batch is made once and the teacher sees it once. A lane that fails is reported and leaves; the others
    continue; with several ranks that is so for a loss that is not finite, and any other error is raised. A damaged
    checkpoint, data set or teacher raises UserError before any training.
    """
    set_numerics(torch.device(job.device), job.threads)
    if data is None:
        data = datasets.load(job.lanes[0].config.data, job.data_root, job.cache)
    if job.data_digest not in (None, data.digest):
        raise UserError(
            f"the images of {data.name} under {job.data_root} are not those that the command found (digest"
            f" {data.digest[:16]} where {job.data_digest[:16]} belongs): restore them, or start the command again"
        )
    _Cohort(job, data, report if ranks.is_first else _ignore, stop, unwanted, ranks).train()


class _Cohort:
    """Lanes that share one stream of batches and one teacher."""

    def __init__(
        self,
        job: CohortJob,
        data: DataSet,
        report: Callable[[Event], None],
        stop: Callable[[], bool],
        unwanted: Collection[str],
        ranks: Ranks,
    ) -> None:
        self.data, self.report, self._stop, self.unwanted, self.ranks = data, report, stop, unwanted, ranks
        self.device = torch.device(job.device)
        self.config = config = job.lanes[0].config
        self.parts = splits(data, config.data)
        self.train_images = on_device(data.train, self.device)
        # a tuning run never uses the test set, which is not even moved
        self.test_images = data.test if config.tuning else on_device(data.test, self.device)
        network, stored = None, job.teacher
        if stored is not None and any(lane.config.distiller().needs_teacher for lane in job.lanes):
            network = ranks.agreed(lambda: teacher_store.load_network(stored, data))
        targets_N = trained_targets(data.train.targets, self.parts.train)
        self.running = [_start(lane, data, targets_N, self.device, network, ranks) for lane in job.lanes]
        begun = {(run.lane.epochs_done, run.lane.steps_done) for run in self.running}
        if len(begun) != 1:
            raise ValueError(f"lanes of cohort '{job.name}' stand at different epochs and steps: {sorted(begun)}")
        self.epochs_done, self.steps_done = begun.pop()
        #: seconds that the unfinished epoch took before the lanes were saved; they may have been in several cohorts
        self._seconds_before = max(run.seconds_before for run in self.running)
        requests = [request for run in self.running for request in run.lane.requests]
        self.teacher: BatchTeacher | None = None
        self.cached: CachedTeacher | None = None
        asking = [run.lane for run in self.running if run.lane.distiller.needs_teacher]
        if stored is not None and network is not None:
            # the teacher's settings come from a run that sees it: a student alone has none
            shown = asking[0].config
            self.teacher = BatchTeacher(
                network,
                [request for lane in asking for request in lane.requests],
                self.device,
                shown.teacher_precision,
                data.image_size,
                shown.teacher_cache,
            )
            if self.teacher.layouts and ranks.are_several:
                self._note("several processes share a minibatch: the teacher is run on every batch, without its cache")
            elif self.teacher.layouts:
                try:
                    self.cached = open_caches(
                        self.teacher, stored, data, len(self.parts.train), job.cache, job.cache_gb, self._note
                    )
                except CacheRefused as reason:
                    self._note(f"{reason}: the teacher is run on every batch, and rounded as the cache would")
        views = sorted({request.view for request in requests}, reverse=True)
        self.stream = TrainStream(
            data, self.train_images, self.parts.train, config.recipe, config.seed, views, self.device, ranks
        )
        #: the teacher never changes: its logits for the test view are computed once, not at every evaluation
        self._teacher_logits: dict[str, list[Tensor]] = {}
        self._last_progress = self._last_saved = time.monotonic()
        #: seconds that the last save took; None before the first
        self._saving_s: float | None = None
        #: when it was last asked whether to stop, and the longest time between two questions
        self._last_asked: float | None = None
        self._longest_unasked_s = 0.0
        self._step = CohortStep(
            [run.lane for run in self.running], self._prepared, self.device, self._lane_failed, self._note, ranks
        )

    def stop(self) -> bool:
        """Whether to stop."""
        now = time.monotonic()
        if self._last_asked is not None:
            self._longest_unasked_s = max(self._longest_unasked_s, now - self._last_asked)
        self._last_asked = now
        return self._stop()

    @property
    def _stopping_s(self) -> float:
        """Seconds that it takes, at most, from being asked to stop until all lanes are saved."""
        expected_s = sum(_saving_s(run.lane) for run in self.running)
        return self._longest_unasked_s + (expected_s if self._saving_s is None else self._saving_s)

    def _note(self, text: str) -> None:
        self.report(Note(text))

    def train(self) -> None:
        """Train epoch by epoch; return early when stopped, or when no lane is left."""
        epochs = self.config.recipe.epochs
        self.report(
            Started(
                self.epochs_done,
                self.stream.num_batches,
                describe_device(self.device),
                describe_numerics(self.device),
                self.steps_done,
            )
        )
        for epoch in range(self.epochs_done + 1, epochs + 1):
            self._epoch_started = time.monotonic() - self._seconds_before
            if self.ranks.agreed(self.stop) or not self._steps(epoch):
                self._halt(epoch)
                return
            for run in list(self.running):
                try:
                    run.lane.finish_epoch(epoch)
                except Exception as error:
                    if self.ranks.are_several and not isinstance(error, NonFiniteLoss):
                        raise  # the others may not have met it, and must take part in whatever comes next
                    self._leave(run, error)
            seconds = time.monotonic() - self._epoch_started
            if self.running and self.config.is_evaluated(epoch):
                release_freed_memory()
                try:
                    self._evaluate(epoch)
                except _Halted:
                    for run in self.running:
                        run.lane.reopen_epoch(self.stream.num_batches)
                    self._halt(epoch)
                    return
                release_freed_memory()
            if not self.running:
                return
            self._close_epoch(epoch, seconds)
        for run in self.running:
            # a run that was killed after its last checkpoint comes here without having trained
            try:
                evaluation = run.evaluation or self._score([run], self.config.headline)[0]
            except _Halted:
                self.report(Stopped(epochs, 0, self.stream.num_batches))
                return
            if self.ranks.is_first:
                self.report(_complete(run, evaluation))

    def _halt(self, epoch: int) -> None:
        """Save every lane where it stands, and report that the cohort stopped in this epoch, or at its start."""
        self._save_between_steps()
        if self.running:
            self.report(Stopped(epoch - 1, self.running[0].lane.steps_done, self.stream.num_batches))

    def _steps(self, epoch: int) -> bool:
        """Take the steps of an epoch that are left; return False when asked to stop."""
        for run in self.running:
            run.lane.start_epoch(epoch)
        # an epoch that was begun before goes on: only the first one can be
        skipped, self.steps_done, self._seconds_before = self.steps_done, 0, 0.0
        stored: Iterator[Sequence[Tensor]] = repeat(())
        if self.cached is not None:
            stored = self.cached.epoch(self.stream, epoch, skipped)
        batches = zip(self.stream.drawn(epoch, skipped), stored, strict=False)
        for step, (drawn, cells) in enumerate(batches, start=skipped + 1):
            self._step(named(drawn, cells))
            for run in self.running:
                run.lane.steps_done = step
            orders = self.ranks.agreed(self._orders)
            self._drop(orders.unwanted)
            if not self.running:
                break
            if orders.must_stop:
                return False
            if step < self.stream.num_batches and orders.must_save:
                self._save_between_steps()
                if not self.running:
                    break
            if time.monotonic() - self._last_progress > PROGRESS_SECONDS:
                self._last_progress = time.monotonic()
                self.report(StepsDone(epoch, step, self._stopping_s))
        return True

    def _prepared(self, inputs: Inputs) -> tuple[Batch, dict[Request, Outputs]]:
        """Make the batch in every view, and compute the teacher's outputs for it."""
        drawn, cells = unnamed(inputs)
        batch = self.stream.batch(drawn)
        return batch, {} if self.teacher is None else self.teacher.outputs(batch.views, cells)

    def _lane_failed(self, lane: Lane, error: Exception) -> None:
        self._leave(next(run for run in self.running if run.lane is lane), error)

    def _leave(self, run: _Running, error: Exception) -> None:
        self._remove(run)
        if isinstance(error, NonFiniteLoss):  # the weights are unusable: the last good checkpoint is kept
            self.report(LaneFailed(run.job.signature, str(error), final=True, history=run.lane.history))
            return
        run.save()
        place = traceback.extract_tb(error.__traceback__)[-1]
        logging.getLogger(__name__).error(f"run {run.job.signature} failed", exc_info=error)
        reason = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
        self.report(LaneFailed(run.job.signature, reason, final=False, history=run.lane.history))

    def _orders(self) -> _Orders:
        return _Orders(self.stop(), frozenset(self.unwanted), self._must_save())

    def _drop(self, unwanted: frozenset[str]) -> None:
        """Drop the unwanted lanes; between steps, when the other lanes' state is consistent."""
        for run in [run for run in self.running if run.job.signature in unwanted]:
            if self.device.type == "cuda":  # steps that were launched still use what is freed here
                torch.cuda.synchronize(self.device)
            self._remove(run)
            run.save()  # its rows stay on disk until they are recorded: the tracking store may be away
            self.report(LaneDropped(run.job.signature, run.lane.history))

    def _remove(self, run: _Running) -> None:
        self.running.remove(run)
        self._step.remove(run.lane)

    def _evaluate(self, epoch: int) -> None:
        """Add test and validation figures to the epoch's rows; a lane whose logits are not finite leaves."""
        headline = self.config.headline
        for split in dict.fromkeys((headline, "val") if len(self.parts.val) else (headline,)):
            for run, found in zip(list(self.running), self._score(self.running, split), strict=True):
                if not found.is_finite:
                    run.lane.history.pop()
                    self._leave(run, NonFiniteLoss(f"the logits were not finite after epoch {epoch}"))
                    continue
                run.lane.history[-1] |= found.metrics(split)
                if split == headline:
                    run.evaluation = found

    def _score(self, lanes: list[_Running], split: str) -> list[Evaluation]:
        images, members = (self.train_images, self.parts.val) if split == "val" else (self.test_images, self.parts.test)
        if self.teacher is not None and split not in self._teacher_logits:
            batches = self._eval_batches(images, members)
            self._teacher_logits[split] = [self.teacher.logits(batch.views["weak"]) for batch in batches]
        for run in lanes:
            run.lane.eval()
        return evaluate(
            [run.lane.logits for run in lanes],
            self._eval_batches(images, members),
            self.data.num_classes,
            self.device,
            [self._teacher_logits.get(split) if run.lane.distiller.needs_teacher else None for run in lanes],
            self.ranks,
        )

    def _eval_batches(self, images: Images, members: Tensor) -> Iterator[Batch]:
        """Yield the test view of this rank's share of the images.

        Raises _Halted before a batch when the cohort has to stop; several ranks, which must agree, end the evaluation.
        """
        for batch in eval_batches(self.data, images, members[self.ranks.share(len(members))], self.device):
            if self.stop() and not self.ranks.are_several:
                raise _Halted
            yield batch

    def _close_epoch(self, epoch: int, seconds: float) -> None:
        """Complete the epoch's rows, keep its state, save it when a checkpoint is due, and report the epoch."""
        started = time.monotonic()
        for run in self.running:
            lane = run.lane
            if self.device.type == "cuda":  # steps were only launched: each lane gets an equal share
                lane.epoch_seconds = seconds / len(self.running)
            lane.train_seconds += lane.epoch_seconds
            lane.history[-1]["time/epoch_s"] = seconds
            lane.history[-1]["time/step_ms"] = 1000 * lane.epoch_seconds / self.stream.num_batches
            run.unsaved = self._state_of(run)
        if epoch == self.config.recipe.epochs or self._must_save():
            self._save(started)
        rows = {run.job.signature: run.lane.history[-1] for run in self.running}
        self.report(EpochDone(epoch, rows, len(self.parts.train) / seconds, self._stopping_s))

    def _state_of(self, run: _Running) -> dict[str, Any]:
        """Copy a lane's state, with what tells where in its training it stands."""
        within = {"seconds_before": time.monotonic() - self._epoch_started} if run.lane.steps_done else {}
        return {**run.lane.state(), **within, "steps_per_epoch": self.stream.num_batches}

    def _must_save(self) -> bool:
        age = time.monotonic() - self._last_saved
        return age > CHECKPOINT_SECONDS and age > (self._saving_s or 0.0) / SAVING_SHARE

    def _save_between_steps(self) -> None:
        """Save every lane where it stands; a lane whose loss was not finite leaves."""
        started = time.monotonic()
        for run in list(self.running):
            if run.lane.steps_done:  # otherwise the state of the last epoch's end is kept already
                try:
                    run.unsaved = self._state_of(run)
                except NonFiniteLoss as error:
                    self._leave(run, error)
        self._save(started)

    def _save(self, started: float) -> None:
        """Write what was kept; `started` is when the lanes began to be copied."""
        for run in self.running:
            run.save()
        self._last_saved = time.monotonic()
        self._saving_s = self._last_saved - started


def _saving_s(lane: Lane) -> float:
    """Estimate the seconds that a lane's checkpoint takes: its weights, side modules included, and their momenta."""
    held = [module for module in (lane.network, lane.modules) if module is not None]
    size: int = 2 * sum(value.nbytes for module in held for value in module.state_dict().values())
    return _CHECKPOINT_S + size / _CHECKPOINT_BYTES_PER_S


def _start(
    job: LaneJob, data: DataSet, targets_N: Tensor, device: torch.device, teacher: models.Network | None, ranks: Ranks
) -> _Running:
    try:
        lane = Lane(job.config, data.num_classes, data.image_size, device, teacher, targets_N, ranks)
    except UnfitPair as reason:
        pair = f"{job.config.teacher}:{job.config.student}"
        raise UserError(f"{job.config.method} cannot run on {pair}: {reason}; leave it out of --methods") from reason
    seconds_before = 0.0
    state = ranks.agreed(lambda: _stored_state(job))
    if state is not None:
        if state["signature"] != job.signature:
            raise UserError(f"checkpoint {job.checkpoint} belongs to another run; delete it to start this run again")
        try:
            lane.load_state(state)
            seconds_before = float(state.get("seconds_before", 0.0))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint {job.checkpoint} does not fit its run ({type(error).__name__}: {error}); delete it to"
                " start this run again"
            ) from error
    return _Running(job, lane, seconds_before)


def _stored_state(job: LaneJob) -> dict[str, Any] | None:
    if not job.checkpoint.exists():
        return None
    # the damaged one must not become the one before, which it would at the next save
    return checkpoint.load(job.checkpoint, lambda fault: checkpoint.restore(job.checkpoint))


def _ignore(event: Event) -> None:
    """Report nothing: the first rank does."""


def _complete(run: _Running, evaluation: Evaluation) -> LaneFinished:
    weights = serialize(run.lane.tested_weights(), metadata={"signature": run.job.signature})
    files.write(run.job.weights, weights)
    return LaneFinished(
        run.job.signature, run.lane.history, list(evaluation.per_class), run.lane.train_seconds, run.job.weights
    )
