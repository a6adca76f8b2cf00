"""MLKD: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillers.base import Epochs, LogitDistiller, NonNegative, Parameters, Positive, Views, warmup
from distillers.kd import kd
from distillers.logspace import log_softmax
from distillers.sdd import register_with_sdd


class MLKD(Parameters):
    """MLKD's hyperparameters. The defaults are those of its released code."""

    #: every distillation term is summed, not averaged, over these
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4.0, 3.0, 5.0, 2.0, 6.0)
    #: weight of the cross-entropy on each of the two views
    ce_weight: NonNegative = 0.1
    #: weight of each distillation term
    weight: NonNegative = 0.9
    #: the distillation terms are scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0
    #: the masks select the weak view's uncertain samples and classes (`select`), or scale all of them by the
    #: fraction that would be selected (`fraction`)
    masks: Literal["fraction", "select"] = "fraction"
    #: temperatures at which the strong view's instance and class terms take the weak view's logits; of a temperature
    #: that stands twice, the last
    weak_logits_at: tuple[Positive, ...] = (2.0, 6.0)
    #: keep the strong view's class and batch terms
    strong_relations: bool = False


#: from this many classes on, the K x K matrices of the class relation are not formed
MANY_CLASSES = 4096


def class_relation(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """Row sums of (P_t^T P_t - P_s^T P_s)^2 with P = softmax(z / T), (K,). Jin, Wang, Lin, CVPR 2023."""
    student, teacher = (log_softmax(z, temperature).exp() for z in (student_NK, teacher_NK))
    if student.shape[1] >= MANY_CLASSES:
        return gram_difference(teacher, student)
    return (teacher.T @ teacher - student.T @ student).square().sum(1)


def gram_difference(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """Row sums of (A^T A - B^T B)^2, (K,), from N x N matrices: memory N K where the K x K matrices take K^2.

    With U = A - B and V = A + B the matrix is (U^T V + V^T U) / 2, whose squares, summed over a row, are quadratic
    forms of U's and V's columns. Every term holds U, so that nothing cancels where A and B are close.
    """
    u, v = a_NK - b_NK, a_NK + b_NK
    return 0.25 * (u * (v @ v.T @ u) + 2 * u * (v @ u.T @ v) + v * (u @ u.T @ v)).sum(0)


def batch_relation(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """Row sums of (P_t P_t^T - P_s P_s^T)^2 with P = softmax(z / T), (N,). Jin, Wang, Lin, CVPR 2023."""
    student, teacher = (log_softmax(z, temperature).exp() for z in (student_NK, teacher_NK))
    return (teacher @ teacher.T - student @ student.T).square().sum(1)


def lower_half(confidence: Tensor) -> Tensor:
    """Mask of the lower half, of the same shape: 1 where a value is at most the median of all, else 0."""
    # for <=, the lower of two middle values and their mean pick the same entries
    median = confidence.sort().values[(len(confidence) - 1) // 2]
    return (confidence <= median).to(confidence.dtype)


class MLKDDistiller(LogitDistiller):
    """Two views, weak and strong; 0.1 CE on each, and 0.9 times terms summed over T in {4, 3, 5, 2, 6}.

    Instance: KD, mean over the batch. Class: ||P_t^T P_t - P_s^T P_s||^2 / K. Batch: ||P_t P_t^T - P_s P_s^T||^2 / B.
    In the weak view's terms a mask keeps samples (classes) of at most the median confidence; the released code
    scales all of them by the mask's mean instead (`masks`). Scale decoupling acts on the instance terms. Jin, Wang,
    Lin, CVPR 2023.
    """

    name = "mlkd"
    title = "MLKD"
    numerics_version = 2
    couples_batch = True
    groups: ClassVar[Mapping[str, type[Parameters]]] = {"mlkd": MLKD}
    conventions: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "paper": {"mlkd": {"masks": "select", "weak_logits_at": (), "strong_relations": True}}
    }
    views = ("weak", "strong")

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.mlkd = cast(MLKD, values["mlkd"])

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        p = self.mlkd
        s, t = {v: student[v].logits for v in self.views}, {v: teacher[v].logits for v in self.views}
        probability_BK = log_softmax(t["weak"]).exp()
        mask_B, mask_K = lower_half(probability_BK.amax(1)), lower_half(probability_BK.sum(0))
        if p.masks == "fraction":
            mask_B, mask_K = mask_B.mean(), mask_K.mean()

        instance, classes, batch = target_B.new_zeros((3,), dtype=mask_B.dtype)
        for place, temperature in enumerate(p.temperatures):

            def kd_at(student_NK: Tensor, teacher_NK: Tensor, _: Tensor, temperature: float = temperature) -> Tensor:
                return kd(student_NK, teacher_NK, temperature)

            weak_B = self.instance(kd_at, student["weak"], teacher["weak"], target_B)
            is_last = temperature not in p.temperatures[place + 1 :]
            strong = "weak" if temperature in p.weak_logits_at and is_last else "strong"
            strong_B = weak_B if strong == "weak" else self.instance(kd_at, student[strong], teacher[strong], target_B)
            instance = instance + (mask_B * weak_B).mean() + strong_B.mean()
            classes = classes + (mask_K * class_relation(s["weak"], t["weak"], temperature)).mean()
            batch = batch + (mask_B * batch_relation(s["weak"], t["weak"], temperature)).mean()
            if p.strong_relations:
                classes = classes + class_relation(s[strong], t[strong], temperature).mean()
                batch = batch + batch_relation(s["strong"], t["strong"], temperature).mean()

        weight = p.weight * warmup(epoch, p.warmup_epochs)
        return {
            "ce": p.ce_weight * (cross_entropy(s["weak"], target_B) + cross_entropy(s["strong"], target_B)),
            "kd": weight * instance,
            "class": weight * classes,
            "batch": weight * batch,
        }


register_with_sdd(MLKDDistiller)
