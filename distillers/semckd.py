"""SemCKD: Chen et al., "Cross-Layer Distillation with Semantic Calibration", AAAI 2021 (arXiv 2012.03236)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from distillers.base import Extras, Facts, NonNegative, Outputs, Positive
from distillers.feature_loss import FeatureLoss, Norm, feature_loss, features_of, same_side, stage_shapes
from distillers.network import Network


class Calibration(nn.Module):
    """Which of the teacher's stages each of the student's learns from, and projectors between all of them."""

    def __init__(self, students: Sequence[int], teachers: Sequence[int], batch_size: int, factor: int) -> None:
        """Take the channels of both networks' stages; the batch size is a width of the attention's layers."""
        super().__init__()
        self.batch_size = batch_size
        width = max(batch_size // factor, 1)
        self.queries = nn.ModuleList(_layers(batch_size, width) for _ in students)
        self.keys = nn.ModuleList(_layers(batch_size, width) for _ in teachers)
        self.projectors = nn.ModuleList(nn.ModuleList(_projector(s, t) for t in teachers) for s in students)

    def attention(self, students: Sequence[Tensor], teachers: Sequence[Tensor], softness: float) -> Tensor:
        """Compute how much of every image's stages is learnt from each of the teacher's, (B, S, T); sums of 1 over T.

        From the similarities of the batch's images in both stages.
        """
        query_BSD, key_BTD = (
            torch.stack([normalize(layers(_similarities(x))) for layers, x in zip(those, maps, strict=True)], dim=1)
            for those, maps in ((self.queries, students), (self.keys, teachers))
        )
        return (query_BSD @ key_BTD.transpose(1, 2) / softness).softmax(dim=2)

    def errors(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Compute the mean squared error of every image between all projected stages and the teacher's, (B, S, T).

        The larger of two maps is average-pooled to the side of the smaller.
        """
        rows = []
        for projectors, s_BDHW in zip(self.projectors, students, strict=True):
            row = []
            for projector, t_BDHW in zip(cast(nn.ModuleList, projectors), teachers, strict=True):
                s, t = same_side(s_BDHW, t_BDHW)
                row.append((projector(s) - t).square().flatten(1).mean(1))
            rows.append(torch.stack(row, dim=1))
        return torch.stack(rows, dim=1)


def _layers(batch_size: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width))


def _projector(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, 2 * after, 1, bias=False),
        Norm(2 * after),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * after, 2 * after, 3, padding=1, bias=False),
        Norm(2 * after),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * after, after, 1, bias=False),
    )


def _similarities(map_BDHW: Tensor) -> Tensor:
    rows = map_BDHW.flatten(1)
    return rows @ rows.T


@feature_loss("semckd", title="SemCKD")
class SemCKD(FeatureLoss):
    """CE + KD + 400 mean over images and the student's stages of sum_t a_t MSE(projected stage, teacher's stage t).

    a is an attention of each image over the teacher's stages, by small networks on the rows of the batch's similarities
    in a stage: the batch size is a width of them. A batch of another size, such as an epoch's last one, has CE and KD
    alone; the released code leaves it out altogether.
    """

    weight: NonNegative = 400.0
    kd_weight: NonNegative = 1.0
    #: the attention's logits are divided by this
    softness: Positive = 1.0
    #: queries and keys have the batch size over this as their width
    factor: Annotated[int, Field(ge=1, le=64)] = 4

    couples_batch: ClassVar[bool] = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        students, teachers = (
            [channels for channels, _ in stage_shapes(network, facts.image_size)] for network in (student, teacher)
        )
        return Calibration(students, teachers, facts.batch_size, self.factor)

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        calibration = cast(Calibration, extras.modules)
        if len(target_B) != calibration.batch_size:
            return student.logits.new_zeros(())
        students, teachers = features_of(student), features_of(teacher)
        attention_BST = calibration.attention(students, teachers, self.softness)
        return (attention_BST * calibration.errors(students, teachers)).sum(2).mean()
