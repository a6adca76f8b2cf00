"""One training step of a cohort: the batch in every view, the teacher once, then every lane; eager, or captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmark.train.batches import Batch, Drawn
from benchmark.train.cuda_graphs import Branches, Inputs, ReplayedStep, Step, capture_for
from benchmark.train.heads import Request
from benchmark.train.lane import Lane
from benchmark.train.ranks import ALONE, Ranks
from distillers import Outputs

#: turns the tensors of a step into the batch in every view, and the teacher's outputs for it
Prepare = Callable[[Inputs], tuple[Batch, Mapping[Request, Outputs]]]


class CohortStep:
    """One step of every lane. On a GPU the step is captured as a CUDA graph, with each lane on its own stream."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        prepare: Prepare,
        device: torch.device,
        fail: Callable[[Lane, Exception], None],
        say: Callable[[str], None],
        ranks: Ranks = ALONE,
    ) -> None:
        """Take the lanes and the function that prepares a batch.

        `fail` receives a lane and its error, and must remove the lane; `say` receives why a step could not be captured.
        """
        self._lanes = list(lanes)
        self._prepare, self._fail, self._ranks = prepare, fail, ranks
        self._branches = Branches(device)
        self._step: Step = self._eager
        self._replayed: ReplayedStep | None = None
        if not ranks.are_several and (capture := capture_for(device)) is not None:
            self._step = self._replayed = ReplayedStep(self._eager, self._captured, capture, say)

    def __call__(self, inputs: Inputs) -> None:
        """Take one step on a batch."""
        self._step(inputs)

    def remove(self, lane: Lane) -> None:
        """Train without this lane from now on; graphs that hold it are dropped."""
        self._lanes.remove(lane)
        if self._replayed is not None:
            self._replayed.forget()

    def _eager(self, inputs: Inputs) -> None:
        """Step lane by lane: an error in one lane does not keep the others from stepping."""
        batch, shown = self._prepare(inputs)
        for lane in list(self._lanes):
            try:
                lane.step(batch.views, batch.target_B, shown, batch.index_B)
            except Exception as error:
                if self._ranks.are_several:  # the others wait for this lane's gradients: none can go on without them
                    raise
                self._fail(lane, error)

    def _captured(self, inputs: Inputs) -> None:
        """Launch the same work as `_eager`, with every lane on a stream of its own."""
        for lane in self._lanes:
            if lane.draws_random_numbers():
                raise RuntimeError(f"{lane.config.student} draws random numbers (dropout) from a stream of its own")
        batch, shown = self._prepare(inputs)
        self._branches.run(
            [
                partial(lane.step_without_randomness, batch.views, batch.target_B, shown, batch.index_B)
                for lane in self._lanes
            ]
        )


def named(drawn: Drawn, cells: Sequence[Tensor]) -> dict[str, Tensor]:
    """Flatten a drawn batch and its stored teacher cells into tensors by name, which a graph copies."""
    tensors = {"target": drawn.target_B, "index": drawn.index_B}
    if drawn.pixels_BCHW is not None:
        tensors["pixels"] = drawn.pixels_BCHW
    tensors |= {f"crops/{view}": crops for view, crops in drawn.crops.items()}
    tensors |= {f"made/{view}": made for view, made in drawn.made.items()}
    return tensors | {f"cells/{number}": cells_BSK for number, cells_BSK in enumerate(cells)}


def unnamed(inputs: Inputs) -> tuple[Drawn, list[Tensor]]:
    """Restore the drawn batch and its stored teacher cells from the tensors that `named` made."""

    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): value for key, value in inputs.items() if key.startswith(name)}

    drawn = Drawn(inputs.get("pixels"), group("crops/"), group("made/"), inputs["target"], inputs["index"])
    return drawn, list(group("cells/").values())
