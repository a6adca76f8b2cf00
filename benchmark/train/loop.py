"""The only training loop: students train here, and teachers before them."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark import datasets
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.machine import describe_device, describe_numerics, release_freed_memory, set_numerics
from benchmark.train import teacher_store
from benchmark.train.batches import Batch, TrainStream, on_device, splits, trained_targets
from benchmark.train.cuda_graphs import Inputs
from benchmark.train.epoch_sums import NonFiniteLoss
from benchmark.train.heads import Request
from benchmark.train.lane import Lane
from benchmark.train.messages import (
    CohortJob,
    EpochDone,
    Event,
    LaneDropped,
    LaneFailed,
    Note,
    Started,
    StepsDone,
    Stopped,
)
from benchmark.train.pace import Pace
from benchmark.train.ranks import ALONE, Ranks
from benchmark.train.running import Running
from benchmark.train.scorer import Halted, Scorer
from benchmark.train.step import CohortStep, named, unnamed
from benchmark.train.teacher import BatchTeacher
from benchmark.train.view_cache import CachedTeacher, CacheRefused, open_caches
from distillers import Outputs

PROGRESS_SECONDS = 0.5


class _Orders(NamedTuple):
    """What is to be done after a step; decided by the first rank, for all of them."""

    must_stop: bool
    unwanted: frozenset[str]
    must_save: bool


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
        self.data, self.report, self.unwanted, self.ranks = data, report, unwanted, ranks
        self.device = torch.device(job.device)
        self.config = config = job.lanes[0].config
        self.parts = splits(data, config.data)
        train_images = on_device(data.train, self.device)
        # a tuning run never uses the test set, which is not even moved
        test_images = data.test if config.tuning else on_device(data.test, self.device)
        network, stored = None, job.teacher
        if stored is not None and any(lane.config.distiller().needs_teacher for lane in job.lanes):
            network = ranks.agreed(lambda: teacher_store.load_network(stored, data))
        targets_N = trained_targets(data.train.targets, self.parts.train)
        self.running = [Running.start(lane, data, targets_N, self.device, network, ranks) for lane in job.lanes]
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
            data, train_images, self.parts.train, config.recipe, config.seed, views, self.device, ranks
        )
        self._last_progress = time.monotonic()
        self._pace = Pace(stop)
        tested = {"test": (test_images, self.parts.test), "val": (train_images, self.parts.val)}
        self._scorer = Scorer(data, tested, self.teacher, self.device, ranks, self._pace.must_stop)
        self._step = CohortStep(self._lanes(), self._prepared, self.device, self._lane_failed, self._note, ranks)

    def _lanes(self) -> list[Lane]:
        return [run.lane for run in self.running]

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
            if self.ranks.agreed(self._pace.must_stop) or not self._steps(epoch):
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
                except Halted:
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
                evaluation = run.evaluation or self._scorer.evaluations([run.lane], self.config.headline)[0]
            except Halted:
                self.report(Stopped(epochs, 0, self.stream.num_batches))
                return
            if self.ranks.is_first:
                self.report(run.complete(evaluation))

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
                self.report(StepsDone(epoch, step, self._pace.stopping_s(self._lanes())))
        return True

    def _prepared(self, inputs: Inputs) -> tuple[Batch, dict[Request, Outputs]]:
        """Make the batch in every view, and compute the teacher's outputs for it."""
        drawn, cells = unnamed(inputs)
        batch = self.stream.batch(drawn)
        return batch, {} if self.teacher is None else self.teacher.outputs(batch.views, cells)

    def _lane_failed(self, lane: Lane, error: Exception) -> None:
        self._leave(next(run for run in self.running if run.lane is lane), error)

    def _leave(self, run: Running, error: Exception) -> None:
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
        return _Orders(self._pace.must_stop(), frozenset(self.unwanted), self._pace.must_save())

    def _drop(self, unwanted: frozenset[str]) -> None:
        """Drop the unwanted lanes; between steps, when the other lanes' state is consistent."""
        for run in [run for run in self.running if run.job.signature in unwanted]:
            if self.device.type == "cuda":  # steps that were launched still use what is freed here
                torch.cuda.synchronize(self.device)
            self._remove(run)
            run.save()  # its rows stay on disk until they are recorded: the tracking store may be away
            self.report(LaneDropped(run.job.signature, run.lane.history))

    def _remove(self, run: Running) -> None:
        self.running.remove(run)
        self._step.remove(run.lane)

    def _evaluate(self, epoch: int) -> None:
        """Add test and validation figures to the epoch's rows; a lane whose logits are not finite leaves."""
        headline = self.config.headline
        for split in dict.fromkeys((headline, "val") if len(self.parts.val) else (headline,)):
            evaluations = self._scorer.evaluations(self._lanes(), split)
            for run, found in zip(list(self.running), evaluations, strict=True):
                if not found.is_finite:
                    run.lane.history.pop()
                    self._leave(run, NonFiniteLoss(f"the logits were not finite after epoch {epoch}"))
                    continue
                run.lane.history[-1] |= found.metrics(split)
                if split == headline:
                    run.evaluation = found

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
        if epoch == self.config.recipe.epochs or self._pace.must_save():
            self._save(started)
        rows = {run.job.signature: run.lane.history[-1] for run in self.running}
        self.report(EpochDone(epoch, rows, len(self.parts.train) / seconds, self._pace.stopping_s(self._lanes())))

    def _state_of(self, run: Running) -> dict[str, Any]:
        """Copy a lane's state, with what tells where in its training it stands."""
        within = {"seconds_before": time.monotonic() - self._epoch_started} if run.lane.steps_done else {}
        return {**run.lane.state(), **within, "steps_per_epoch": self.stream.num_batches}

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
        self._pace.saved(started)


def _ignore(event: Event) -> None:
    """Report nothing: the first rank does."""
