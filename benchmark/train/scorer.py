"""Evaluate the lanes of a cohort, beside what their teacher says of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from benchmark.datasets.base import DataSet, Images
from benchmark.train.batches import Batch, eval_batches
from benchmark.train.evaluate import Evaluation, evaluate
from benchmark.train.lane import Lane
from benchmark.train.ranks import Ranks
from benchmark.train.teacher import BatchTeacher


class Halted(Exception):
    """An evaluation was left half way, because the cohort has to stop."""


class Scorer:
    """Evaluations on the splits `test` and `val`, each given as images and which of them belong to it."""

    def __init__(
        self,
        data: DataSet,
        splits: Mapping[str, tuple[Images, Tensor]],
        teacher: BatchTeacher | None,
        device: torch.device,
        ranks: Ranks,
        must_stop: Callable[[], bool],
    ) -> None:
        self._data, self._splits, self._teacher, self._device = data, splits, teacher, device
        self._ranks, self._must_stop = ranks, must_stop
        #: the teacher never changes: its logits for the test view are computed once, not at every evaluation
        self._teacher_logits: dict[str, list[Tensor]] = {}

    def evaluations(self, lanes: Sequence[Lane], split: str) -> list[Evaluation]:
        """Evaluate lanes on one pass over a split.

        Raises:
            Halted: before a batch when the cohort has to stop; several ranks, which must agree, end the evaluation.
        """
        if self._teacher is not None and split not in self._teacher_logits:
            self._teacher_logits[split] = [self._teacher.logits(batch.views["weak"]) for batch in self._batches(split)]
        for lane in lanes:
            lane.eval()
        return evaluate(
            [lane.logits for lane in lanes],
            self._batches(split),
            self._data.num_classes,
            self._device,
            [self._teacher_logits.get(split) if lane.distiller.needs_teacher else None for lane in lanes],
            self._ranks,
        )

    def _batches(self, split: str) -> Iterator[Batch]:
        """Yield the test view of this rank's share of the images."""
        images, members = self._splits[split]
        for batch in eval_batches(self._data, images, members[self._ranks.share(len(members))], self._device):
            if self._must_stop() and not self._ranks.are_several:
                raise Halted
            yield batch
