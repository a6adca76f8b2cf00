"""SKD: "Streamlined Knowledge Distillation", CVPR 2026 (released code HyunJunSik/StreamLined)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Positive, Views, warmup
from distillers.kd import kd
from distillers.logspace import log_softmax
from distillers.mlkd import lower_half
from distillers.sdd import register_with_sdd

#: doublings of the correct digits of an inverse: enough where the trace is up to 100,000 times the least eigenvalue
_DOUBLINGS = 24


class SKD(Parameters):
    """SKD's hyperparameters. The defaults are those of its released code."""

    temperature: Positive = 4.0
    ce_weight: NonNegative = 0.1
    #: weight of KD, and of the distance between similarities
    weight: NonNegative = 0.9
    #: what is added to the covariance's diagonal
    tikhonov: Positive = 0.1
    #: both distillation terms are scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0


def inverse(matrix_BB: Tensor) -> Tensor:
    """Invert a symmetric positive definite matrix by products alone (Newton, Schulz).

    A factorization would wait for the device to say whether it succeeded.
    """
    twice_BB = 2 * torch.eye(len(matrix_BB), dtype=matrix_BB.dtype, device=matrix_BB.device)
    with torch.no_grad():
        made_BB = twice_BB / (2 * matrix_BB.diagonal().sum())
        for _ in range(_DOUBLINGS):
            made_BB = made_BB @ (twice_BB - matrix_BB @ made_BB)
    # from the inverse itself, a step has the inverse's derivative
    return made_BB @ (twice_BB - matrix_BB @ made_BB)


def similarity_distance(student_BK: Tensor, teacher_BK: Tensor, tikhonov: float) -> Tensor:
    """Mean of sqrt(d_b' (cov(D) + c I)^-1 d_b) over the rows of D = (cos_s - cos_t) / K, (B x B).

    cos are the cosines of the batch's logits, and cov is over the rows. Streamlined Knowledge Distillation, CVPR 2026.
    """
    rows, classes = student_BK.shape
    gram_s, gram_t = (normalize(z) @ normalize(z).T for z in (student_BK, teacher_BK))
    difference_BB = (gram_s - gram_t) / classes
    centred_BB = difference_BB - difference_BB.mean(0)
    eye_BB = torch.eye(rows, dtype=centred_BB.dtype, device=centred_BB.device)
    # a batch of one has no covariance
    inverse_BB = inverse(centred_BB.T @ centred_BB / max(rows - 1, 1) + tikhonov * eye_BB)
    squared_B = (difference_BB @ inverse_BB * difference_BB).sum(1)
    # the root has no derivative at 0, where both networks agree
    return (squared_B.clamp(min=0) + 1e-24).sqrt().mean()


class SKDDistiller(LogitDistiller):
    """0.1 CE + 0.9 (a KD + b M), M the Mahalanobis length of the rows of the difference of similarities in the batch.

    a is the fraction of samples, b that of classes, of at most the median confidence: the released code multiplies
    mean losses by masks, and only the masks' means are left. M = mean_b sqrt(d_b' (cov(D) + 0.1 I)^-1 d_b), D = (cos_s
    - cos_t) / K. Scale decoupling acts on KD. Published with teachers of its own, at a learning rate of 0.1.
    """

    name = "skd"
    title = "SKD"
    couples_batch = True
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"skd": SKD}

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.skd = cast(SKD, values["skd"])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        p = self.skd
        s, t = student["weak"], teacher["weak"]

        def loss(student_NK: Tensor, teacher_NK: Tensor, _: Tensor) -> Tensor:
            return kd(student_NK, teacher_NK, p.temperature)

        probability_BK = log_softmax(t.logits).exp()
        samples, classes = (lower_half(x).mean() for x in (probability_BK.amax(1), probability_BK.sum(0)))
        weight = p.weight * warmup(epoch, p.warmup_epochs)
        return {
            "ce": p.ce_weight * cross_entropy(s.logits, target_B),
            "kd": weight * samples * self.instance(loss, s, t, target_B).mean(),
            "batch": weight * classes * similarity_distance(s.logits, t.logits, p.tikhonov),
        }


register_with_sdd(SKDDistiller)
