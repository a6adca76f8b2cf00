"""Figures of an epoch, summed on the device over its steps and read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.train.ranks import Ranks


class NonFiniteLoss(RuntimeError):
    """The loss of a lane was not finite; the message names the epoch and the first bad step."""


class EpochSums:
    """Sums of one lane, over this rank's images; what is read is of all ranks."""

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._device, self._ranks = device, ranks
        self._names: list[str] = []
        #: the epoch's sums over images of every figure, then the number of images; made by the first step
        self.values: Tensor | None = None
        #: steps taken in the epoch, and the first whose loss was not finite (counted from 0; -1: none)
        self._num_steps = torch.zeros((), dtype=torch.int64, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def clear(self) -> None:
        """Begin an epoch."""
        if self.values is not None:
            self.values.zero_()
        self._num_steps.zero_()
        self.bad_step.fill_(-1)

    def add(self, figures: Mapping[str, Tensor], loss: Tensor, num_images: int) -> None:
        """Add a step's figures, each a mean over its images, and see whether its loss is finite."""
        values = torch.stack([*figures.values(), torch.ones_like(loss)]).double()
        if self.values is None:
            self._names, self.values = list(figures), torch.zeros_like(values)
        self.values.add_(values, alpha=num_images)
        bad = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.copy_(torch.where(bad, self._num_steps, self.bad_step))
        self._num_steps.add_(1)

    def means(self, epoch: int) -> dict[str, float]:
        """Read the mean of every figure over the images of an epoch, in one transfer; all ranks must call it.

        Raises:
            NonFiniteLoss: when a step's loss was not finite.
        """
        assert self.values is not None
        *sums, num_images, bad_step = torch.cat([self._ranks.total(self.values), self._first_bad_step()]).tolist()
        _refuse(epoch, int(bad_step))
        return {name: value / num_images for name, value in zip(self._names, sums, strict=True)}

    def state(self, epoch: int) -> dict[str, Any]:
        """Copy the sums of an unfinished epoch to the CPU; all ranks must call it, and get the same.

        Raises:
            NonFiniteLoss: when a step's loss was not finite.
        """
        assert self.values is not None
        _refuse(epoch, int(self._first_bad_step()))
        return {"sums": self._ranks.total(self.values).cpu().clone(), "names": [*self._names]}

    def load_state(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Continue from what `state` returned, `num_steps` steps into the epoch."""
        self.values, self._names = state["sums"].to(self._device), state["names"]
        if not self._ranks.is_first:  # they are counted once
            self.values = torch.zeros_like(self.values)
        self._num_steps.fill_(num_steps)

    def _first_bad_step(self) -> Tensor:
        """The first step of the epoch whose loss was not finite on any rank, (1,), counted from 0; -1: none."""
        bad_step = self.bad_step.double()[None]
        if not self._ranks.are_several:
            return bad_step
        found_R = self._ranks.gathered(bad_step)
        found = found_R[found_R >= 0]
        return (found.min()[None] if len(found) else found_R[0]).to(self._device)


def _refuse(epoch: int, bad_step: int) -> None:
    """Raise NonFiniteLoss for the first step of an epoch whose loss was not finite, counted from 0; -1: none."""
    if bad_step >= 0:
        raise NonFiniteLoss(f"the loss was not finite at epoch {epoch}, step {bad_step + 1}")
