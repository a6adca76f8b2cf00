"""No distillation: the student alone, the baseline that every method must beat."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from distillers.base import LogitDistiller, Views, register


class Vanilla(LogitDistiller):
    """Cross-entropy with the labels; `teacher` may be empty."""

    name = "vanilla"
    title = "Student"
    needs_teacher = False

    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        return {"ce": cross_entropy(student["weak"].logits, target_B)}


register(Vanilla)
