"""OFD: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019 (arXiv 1904.01866)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from distillers.base import Extras, Facts, NonNegative, Outputs, UnfitPair
from distillers.feature_loss import FeatureLoss, Norm, feature_loss, pre_activations_of, probe, same_side
from distillers.network import Network


def margins(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] of every channel, x normal with mean beta and deviation |gamma|, (D,). Heo et al., ICCV 2019.

    -3 |gamma| where x is hardly ever negative.
    """
    mean, deviation = norm.bias.detach().double(), norm.weight.detach().double().abs()
    ratio = mean / deviation.clamp(min=1e-300)
    below = 0.5 * torch.erfc(ratio / math.sqrt(2))
    expected = mean - deviation * (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi) / below.clamp(min=1e-300)
    return torch.where(below > 0.001, expected, -3 * deviation)


def partial_l2(student_BDHW: Tensor, teacher_BDHW: Tensor, margin_D: Tensor) -> Tensor:
    """Sum of (s - max(t, margin))^2 where s is above that or t is positive. Heo et al., ICCV 2019."""
    target_BDHW = teacher_BDHW.maximum(margin_D[:, None, None])
    counts = (student_BDHW > target_BDHW) | (target_BDHW > 0)
    return ((student_BDHW - target_BDHW).square() * counts).sum()


class Connectors(nn.Module):
    """A 1 x 1 convolution and batch norm for every stage of the student, and the teacher's margins."""

    def __init__(self, widths: list[tuple[int, int]], margins_of_stages: list[Tensor]) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(nn.Sequential(nn.Conv2d(s, t, 1, bias=False), Norm(t)) for s, t in widths)
        for connector in self.connectors:
            nn.init.kaiming_normal_(cast(nn.Sequential, connector)[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        for number, margin_D in enumerate(margins_of_stages):
            self.register_buffer(f"margin{number}", margin_D)

    def forward(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the sum over stages of the partial squared error, the deepest counted once, each before it half."""
        terms = []
        last = len(self.connectors) - 1
        for number, connector in enumerate(self.connectors):
            s, t = same_side(connector(students[number]), teachers[number])
            terms.append(partial_l2(s, t, self.get_buffer(f"margin{number}")) / 2 ** (last - number))
        return torch.stack(terms).sum()


@feature_loss("ofd", title="OFD")
class OFD(FeatureLoss):
    """CE + 0.001 / B sum over stages of a partial squared error between pre-activations.

    Stages are paired from the back; the last counts once, and each before it half as much as the next. The teacher's
    negative values count down to a margin, their expected value. The released codes run the teacher with the statistics
    of the batch; here, as everywhere, it is in evaluation mode.
    """

    weight: NonNegative = 0.001

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        seen, shown = (probe(network, facts.image_size).pre_activations for network in (student, teacher))
        norms = teacher.norms_before_activation()
        if not seen:
            raise UnfitPair("pre-activations are compared, and the student's stages end without an activation")
        if not norms:
            raise UnfitPair(
                "margins come from batch norms right before an activation, and the teacher's stages have none"
            )
        number = min(len(seen), len(shown))
        widths = [(s.shape[1], t.shape[1]) for s, t in zip(seen[-number:], shown[-number:], strict=True)]
        return Connectors(widths, [margins(norm).float() for norm in norms[-number:]])

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        connectors = cast(Connectors, extras.modules)
        number = len(connectors.connectors)
        s, t = (list(pre_activations_of(seen)[-number:]) for seen in (student, teacher))
        total: Tensor = connectors(s, t)
        return total / len(target_B)
