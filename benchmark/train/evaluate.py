"""Test-set figures of several networks from one pass over the test set, with one transfer at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.train.batches import Batch
from benchmark.train.ranks import ALONE, Ranks

NUM_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Scores of one network: accuracies in percent; `agreement` and `kl_teacher` are None without a teacher."""

    top1: float
    top5: float
    #: expected calibration error in percent, 15 equal bins of confidence (Guo et al., ICML 2017)
    ece: float
    #: images on which student and teacher predict the same class, percent
    agreement: float | None
    #: mean KL(p_teacher || p_student) at temperature 1, nats
    kl_teacher: float | None
    #: (K,) accuracy per class, percent; nan for classes without test images
    per_class: tuple[float, ...]
    #: whether every logit was finite; if not, the other figures are meaningless
    is_finite: bool

    def metrics(self, split: str) -> dict[str, float]:
        """Figures by metric name, e.g. `test/top1`, without those that are None."""
        named = {
            "top1": self.top1,
            "top5": self.top5,
            "ece": self.ece,
            "agreement": self.agreement,
            "kl_teacher": self.kl_teacher,
        }
        return {f"{split}/{name}": value for name, value in named.items() if value is not None}


class _Sums:
    """Sums of one network over the test set, kept on the device."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # top1, top5, agreement, kl, rows with a logit that is not finite
        self.totals = torch.zeros(5, dtype=torch.float64, device=device)
        # summed confidence and number of correct predictions, per bin
        self.bins = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device)
        self.class_correct = torch.zeros(num_classes, dtype=torch.float64, device=device)

    def add_others(self, ranks: Ranks) -> None:
        """Add the sums of the other ranks."""
        self.totals, self.bins = ranks.total(self.totals), ranks.total(self.bins)
        self.class_correct = ranks.total(self.class_correct)

    def add(self, logits_BK: Tensor, target_B: Tensor, teacher_BK: Tensor | None) -> None:
        log_p = F.log_softmax(logits_BK.float(), dim=1)
        confidence_B, predicted_B = log_p.exp().max(dim=1)
        right_B = (predicted_B == target_B).double()
        top5_BJ = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
        self.totals[0] += right_B.sum()
        self.totals[1] += (top5_BJ == target_B[:, None]).sum()
        if teacher_BK is not None:
            log_t = F.log_softmax(teacher_BK.float(), dim=1)
            self.totals[2] += (teacher_BK.argmax(dim=1) == predicted_B).sum()
            self.totals[3] += (log_t.exp() * (log_t - log_p)).sum()
        self.totals[4] += (~logits_BK.isfinite()).any(dim=1).sum()
        bin_B = (confidence_B.nan_to_num() * NUM_BINS).long().clamp(0, NUM_BINS - 1)
        for row, value_B in enumerate((confidence_B.double(), right_B)):
            self.bins[row].index_add_(0, bin_B, value_B)
        self.class_correct.index_add_(0, target_B, right_B)


@torch.no_grad()
def evaluate(
    networks: Sequence[Callable[[Tensor], Tensor]],
    batches: Iterable[Batch],
    num_classes: int,
    device: torch.device,
    teachers: Sequence[Sequence[Tensor] | None] | None = None,
    ranks: Ranks = ALONE,
) -> list[Evaluation]:
    """Evaluate every network on one pass over the batches, which are this rank's share of the images.

    `teachers` holds, for each network, its teacher's logits of every batch, or None.
    """
    shown = teachers if teachers is not None else [None] * len(networks)
    sums = [_Sums(num_classes, device) for _ in networks]
    class_count = torch.zeros(num_classes, dtype=torch.float64, device=device)
    for number, batch in enumerate(batches):
        x_BCHW, target_B = batch.views["weak"], batch.target_B
        class_count.index_add_(0, target_B, torch.ones_like(target_B, dtype=torch.float64))
        for network, summed, logits in zip(networks, sums, shown, strict=True):
            summed.add(network(x_BCHW), target_B, None if logits is None else logits[number])
    for summed in sums:
        summed.add_others(ranks)
    class_count = ranks.total(class_count)
    count = class_count.sum()
    return [_read(summed, class_count, count, logits is not None) for summed, logits in zip(sums, shown, strict=True)]


def _read(sums: _Sums, class_count_K: Tensor, count: Tensor, has_teacher: bool) -> Evaluation:
    confidence, right = sums.bins
    calibration = ((confidence - right).abs().sum() / count * 100).reshape(1)
    row = torch.cat([sums.totals / count, calibration, sums.class_correct / class_count_K * 100]).tolist()
    top1, top5, agreement, kl, not_finite, ece = row[:6]
    return Evaluation(
        top1=_percent(top1),
        top5=_percent(top5),
        ece=ece,
        agreement=_percent(agreement) if has_teacher else None,
        kl_teacher=kl if has_teacher else None,
        per_class=tuple(row[6:]),
        is_finite=not_finite == 0,
    )


def _percent(share: float) -> float:
    """Percent with four decimals, which tell any two counts of up to a million images apart; 82.4, not 82.39999."""
    return round(100 * share, 4)
