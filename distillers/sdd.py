"""Scale Decoupled Distillation: one wrapper around the per-sample terms of any logit distiller.

Wei, Luo, Luo, "Scale Decoupled Distillation", CVPR 2024 (arXiv 2403.13512).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator
from torch import Tensor

from distillers.base import Grids, LogitDistiller, NonNegative, Outputs, Parameters, PerSample, Views, register
from distillers.modifier import Modifier
from distillers.regions import Complementary, GlobalFrom, Weights, complementary_regions, region_weights

#: raise it whenever a change here or in `regions` makes the losses differ
NUMERICS_VERSION = 1


def _ascending(scales: tuple[int, ...]) -> tuple[int, ...]:
    if not scales or list(scales) != sorted(set(scales)) or scales[0] < 1 or scales[-1] > 16:
        raise ValueError("must be one or more whole numbers from 1 to 16, ascending, e.g. 1,2,4")
    return scales


class SDD(Parameters):
    """Hyperparameters that scale decoupling adds to a method. The defaults are those of SDD's released code."""

    #: sides m of the m x m grids; (1,) is the base method on the network's own logits
    scales: Annotated[tuple[int, ...], AfterValidator(_ascending)] = (1, 2, 4)
    #: weight of complementary regions; 0 leaves the consistent ones only
    beta: NonNegative = 2.0
    #: weight of consistent regions; 0 leaves the complementary ones only
    consistent: NonNegative = 1.0
    #: `region`: each region has its own weight. Controls: `mean`, all have the batch's mean weight (as much loss);
    #: `shuffled`, each sample's weights are moved to other regions of it (as much loss in each sample)
    weights: Weights = "region"
    #: a region is complementary when exactly one of its prediction and the whole image's is the label (`label`), or
    #: when the two differ (`prediction`)
    complementary: Complementary = "label"
    #: weighted sum over the regions, divided by R, not by the weights' sum (`mean`), or undivided (`sum`); the loss is
    #: its mean over the batch
    reduction: Literal["mean", "sum"] = "mean"
    #: prediction for the whole image: the 1 x 1 region's (`cell`), or the network's own (`logits`; always without
    #: scale 1)
    global_from: GlobalFrom = "cell"
    #: coarse grids are averaged from the 4 x 4 grid (`from_4x4`), or from the map (`map`)
    grids: Grids = "from_4x4"


#: the paper's values where they differ from the code's, and the warm-up it gives to every base loss
PAPER = {"complementary": "prediction", "reduction": "sum", "global_from": "logits", "grids": "map"}
PAPER_WARMUP_EPOCHS = 30


class ScaleDecoupled(LogitDistiller):
    """Take a distiller's per-sample terms per region: (1 / R) sum_r w_r loss(student_r, teacher_r), or without 1 / R.

    w_r is `sdd.beta` where exactly one of the teacher's predictions for region r and for the whole image is the label
    (released code), or where the two differ (paper), else `sdd.consistent`, which is 1. Cross-entropy and terms over
    the batch stay on the whole image. With scales (1,) it is the base method. Wei, Luo, Luo, CVPR 2024.
    """

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.sdd = cast(SDD, values["sdd"])
        if self.sdd.scales != (1,):
            self.scales, self.grids = self.sdd.scales, self.sdd.grids
            self.couples_batch |= self.sdd.weights == "mean"

    def complementary(self, teacher: Outputs, target_B: Tensor) -> Tensor:
        """Mask of the complementary regions, (B, R) of bool."""
        return complementary_regions(teacher, target_B, self.scales, self.sdd.complementary, self.sdd.global_from)

    def instance(self, loss: PerSample, student: Outputs, teacher: Outputs, target_B: Tensor) -> Tensor:
        if not self.scales:
            return super().instance(loss, student, teacher, target_B)
        batch, regions, _ = student.regions.shape
        target_BR = target_B[:, None].expand(batch, regions)
        loss_N = super().instance(loss, _as_samples(student), _as_samples(teacher), target_BR.flatten())
        complementary_BR = self.complementary(teacher, target_B)
        weight_BR = region_weights(complementary_BR, self.sdd.beta, loss_N.dtype, self.sdd.consistent, self.sdd.weights)
        weighted_BR = weight_BR * loss_N.reshape(batch, regions)
        return weighted_BR.mean(1) if self.sdd.reduction == "mean" else weighted_BR.sum(1)

    def diagnostics(self, student: Views, teacher: Views, target_B: Tensor) -> dict[str, Tensor]:
        if not self.scales:
            return {}
        return {"complementary_fraction": self.complementary(teacher[self.views[0]], target_B).float().mean()}


def _as_samples(outputs: Outputs) -> Outputs:
    """Turn every region into a sample of its own, (B * R, K), without regions."""
    return Outputs(outputs.regions.flatten(0, 1), outputs.regions[:, :0])


DECOUPLING = Modifier(
    "sdd",
    title="SD-{}",
    summary="{} per region of the image, with complementary regions weighted by `sdd.beta`.",
    parameters=SDD,
    mixin=ScaleDecoupled,  # type: ignore[type-abstract]  # the method makes it concrete
    numerics_version=NUMERICS_VERSION,
)


def register_with_sdd(method: type[LogitDistiller], released: Mapping[str, Any] | None = None) -> None:
    """Register a distiller class `x` and its scale-decoupled form `sdd_x`.

    The first group of `x`, if it has one, holds its hyperparameters, warm-up included: scale decoupling adds none.
    `released` are the values that SDD's released code gives them; under the paper's convention they are the method's
    own, with warm-up over 30 epochs where the group has the field `warmup_epochs`. Raises ValueError when a name is
    taken.
    """
    code: dict[str, Mapping[str, Any]] = {}
    paper: dict[str, Mapping[str, Any]] = {"sdd": PAPER}
    for group, parameters in list(method.groups.items())[:1]:
        code[group] = released or {}
        paper[group] = {"warmup_epochs": PAPER_WARMUP_EPOCHS} if "warmup_epochs" in parameters.model_fields else {}
    register(method)
    register(DECOUPLING.of(method, {"code": code, "paper": paper}))
