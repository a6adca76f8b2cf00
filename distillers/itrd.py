"""ITRD: Miles, Lopez-Rodriguez, Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022.

arXiv 2112.00459.
"""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn.functional import normalize

from distillers.base import Extras, Facts, NonNegative, Outputs, Positive, Sees
from distillers.feature_loss import FeatureLoss, embedding_of, embedding_size, feature_loss
from distillers.network import Network


def correlation_loss(student_BD: Tensor, teacher_BD: Tensor, alpha: float) -> Tensor:
    """log2 sum over features of |1 - their correlation over the batch|^(2 alpha). Miles et al., BMVC 2022.

    The deviations divide by B - 1 and the correlation by B, as in the released code. A feature that is constant in the
    batch has the correlation 0.
    """
    rows = len(student_BD)
    student_BD, teacher_BD = (
        (x - x.mean(0)) / (x.var(0, correction=min(1, rows - 1)) + 1e-24).sqrt() for x in (student_BD, teacher_BD)
    )
    correlation_D = (student_BD * teacher_BD).sum(0) / rows
    return (1 - correlation_D).abs().pow(2 * alpha).sum().log2()


def mutual_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Sum of (G_s / tr G_s)^2 - (G_st / tr G_st)^2, G the cosines in the batch. Miles et al., BMVC 2022."""
    student_BD, teacher_BD = normalize(student_BD), normalize(teacher_BD)
    own_BB = student_BD @ student_BD.T
    both_BB = own_BB * (teacher_BD @ teacher_BD.T)
    own_BB, both_BB = (gram_BB / gram_BB.trace() for gram_BB in (own_BB, both_BB))
    difference: Tensor = own_BB.square().sum() - both_BB.square().sum()
    return difference


@feature_loss("itrd", title="ITRD")
class ITRD(FeatureLoss):
    """CE + 2 correlation loss + 1 mutual information loss of the student's embedding, through a linear layer.

    Correlation: log2 sum_d |1 - rho_d|^(2 alpha), rho_d of feature d over the batch. Mutual information: the sum of
    (G_s / tr G_s)^2 - (G_st / tr G_st)^2, G the batch's cosines, G_st = G_s * G_t by element; there, embeddings of
    equal width are compared without the layer. Published with alpha 1.01 for networks of one family, with mutual 0 for
    some pairs.
    """

    correlation: NonNegative = 2.0
    mutual: NonNegative = 1.0
    alpha: Positive = 1.5

    sees: ClassVar[Sees] = "map"
    couples_batch: ClassVar[bool] = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        before, after = (embedding_size(network, facts.image_size) for network in (student, teacher))
        return nn.Linear(before, after)

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        s_BD, t_BD = embedding_of(student), embedding_of(teacher)
        embedded_BD = cast(nn.Module, extras.modules)(s_BD)
        compared_BD = s_BD if s_BD.shape == t_BD.shape else embedded_BD
        correlation = self.correlation * correlation_loss(embedded_BD, t_BD, self.alpha)
        return correlation + self.mutual * mutual_loss(compared_BD, t_BD)
