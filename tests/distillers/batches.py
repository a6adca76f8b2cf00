"""Random outputs of a student and a teacher, shaped as a distiller wants them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import distillers
from distillers import Distiller, Outputs
from distillers.regions import num_regions

#: methods whose loss is a function of logits alone; the others are tested with networks
ON_LOGITS = [name for name in distillers.names() if not distillers.registry.get(name).needs_networks()]

Batch = tuple[dict[str, Outputs], dict[str, Outputs], Tensor]


def random_batch(
    distiller: Distiller,
    seed: int = 0,
    batch: int = 6,
    classes: int = 7,
    dtype: torch.dtype = torch.float64,
    size: float = 2.0,
) -> Batch:
    """Student outputs (with gradient), teacher outputs and targets; teachers often agree with the target."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (batch,), generator=generator)
    hint = 3 * torch.nn.functional.one_hot(target, classes).double()

    def outputs(hinted: bool) -> Outputs:
        shapes = (batch, classes), (batch, num_regions(distiller.scales), classes)
        draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        if hinted:
            draws = [draws[0] + hint / 2, draws[1] + hint[:, None] / 2]
        logits, regions = ((size * draw).to(dtype).requires_grad_(not hinted) for draw in draws)
        return Outputs(logits, regions)

    student = {view: outputs(False) for view in distiller.views}
    return student, {view: outputs(True) for view in distiller.views}, target


def taught(losses: Callable[[dict[str, Outputs]], dict[str, Tensor]], teacher: dict[str, Outputs]) -> Tensor:
    """The sum of the terms that look at the teacher, whatever they are called."""
    # another order alone leaves a swap of huge logits, which gives the label all, as it is
    other = {view: seen.map_all(lambda tensor: tensor.roll(1, 0) / 1000) for view, seen in teacher.items()}
    own, changed = losses(teacher), losses(other)
    return torch.stack([own[term] for term in own if own[term] != changed[term]]).sum()


def used(distiller: Distiller, student: dict[str, Outputs]) -> list[Tensor]:
    """The student's outputs that hold anything."""
    seen = [student[view] for view in distiller.views]
    return [tensor for outputs in seen for tensor in (outputs.logits, outputs.regions) if tensor.numel()]
