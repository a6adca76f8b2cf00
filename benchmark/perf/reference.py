"""The training iteration of SDD's released code, rewritten in plain PyTorch: the reference for our measurements.

It computes the same values as the released code, in the same way: regions pooled scale by scale and kept as (B, K, R),
probabilities before logarithms, masks for the target and for the four kinds of regions, a host read wherever the
released code looks at a value, the teacher inside every step. Two things are left out, which favours the reference:
the DistributedDataParallel wrapper with synchronised batch norm, and printing the progress bar. The names and the
hyperparameters are this project's; the numbers are equal to ours, which tests/benchmark/perf checks.

Shape letters: B batch, K classes, R regions, D channels, H W the map, N rows of logits (B, or R * B).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.config import RunConfig
from benchmark.train.lane import create_network
from models import Network

Values = Mapping[str, Any]


def kd_rows(student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, values: Values) -> Tensor:
    """KD of every row, (N,), with NaN entries set to 0."""
    temperature: float = values["temperature"]
    log_p_s = F.log_softmax(student_NK / temperature, dim=1)
    p_t = F.softmax(teacher_NK / temperature, dim=1)
    loss_NK = F.kl_div(log_p_s, p_t, reduction="none") * temperature**2
    loss_NK[torch.isnan(loss_NK)] = loss_NK.new_zeros(())  # on a GPU this mask is read back
    return loss_NK.sum(dim=1)


def dkd_rows(student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, values: Values) -> Tensor:
    """DKD of every row, (N,): target against the rest, and the rest with the target pushed down by 1000."""
    temperature = values["temperature"]
    own_NK = torch.zeros_like(student_NK).scatter_(1, target_N.unsqueeze(1), 1).bool()
    other_NK = torch.ones_like(student_NK).scatter_(1, target_N.unsqueeze(1), 0).bool()

    def binary(logits_NK: Tensor) -> Tensor:
        p_NK = F.softmax(logits_NK / temperature, dim=1)
        return torch.cat([(p_NK * own_NK).sum(1, keepdim=True), (p_NK * other_NK).sum(1, keepdim=True)], dim=1)

    p_s, p_t = binary(student_NK), binary(teacher_NK)
    tckd_N = (F.kl_div(torch.log(p_s), p_t, reduction="none") * temperature**2).sum(dim=1)
    q_t = F.softmax(teacher_NK / temperature - 1000.0 * own_NK, dim=1)
    log_q_s = F.log_softmax(student_NK / temperature - 1000.0 * own_NK, dim=1)
    nckd_N = (F.kl_div(log_q_s, q_t, reduction="none") * temperature**2).sum(dim=1)
    weighted: Tensor = values["alpha"] * tckd_N + values["beta"] * nckd_N
    return weighted


def nkd_rows(student_NK: Tensor, teacher_NK: Tensor, target_N: Tensor, values: Values) -> Tensor:
    """NKD of every row, (N,), the logits of the second term picked by a mask (all of them with `keep_target`)."""
    temperature: float = values["temperature"]
    rows = len(student_NK)
    label_N1 = target_N.view(rows, 1)
    own_s = torch.gather(F.log_softmax(student_NK, dim=1), 1, label_N1)
    own_t = torch.gather(F.softmax(teacher_NK, dim=1), 1, label_N1).detach()
    kept_NK = torch.ones_like(student_NK).scatter_(1, label_N1, float(values["keep_target"])).bool()
    student_NJ = student_NK[kept_NK].reshape(rows, -1)
    teacher_NJ = teacher_NK[kept_NK].reshape(rows, -1)
    log_q_s = F.log_softmax(student_NJ / temperature, dim=1)
    q_t = F.softmax(teacher_NJ / temperature, dim=1)
    other_N: Tensor = -values["gamma"] * temperature**2 * (q_t * log_q_s).sum(dim=1)
    return -(own_t * own_s).squeeze(1) + other_N


ROWS: dict[str, Callable[[Tensor, Tensor, Tensor, Values], Tensor]] = {"kd": kd_rows, "dkd": dkd_rows, "nkd": nkd_rows}


def decoupled(base: str, student_BKR: Tensor, teacher_BKR: Tensor, target_B: Tensor, values: Values) -> Tensor:
    """Scale-decoupled form of a loss: weighted over the regions, divided by their number, averaged over B.

    `values` are the base loss's hyperparameters, and `region_beta`, the weight of complementary regions.
    """
    batch, classes, regions = student_BKR.shape
    student_NK = student_BKR.permute(2, 0, 1).reshape(regions * batch, classes)
    teacher_NK = teacher_BKR.permute(2, 0, 1).reshape(regions * batch, classes)
    target_N = target_B.repeat(regions)
    loss_N = ROWS[base](student_NK, teacher_NK, target_N, values)

    predicted_N = teacher_NK.argmax(dim=1)
    whole_B = predicted_N[: len(target_B)]
    whole_right_N = (whole_B == target_B).clone().repeat(regions)
    whole_wrong_N = (whole_B != target_B).clone().repeat(regions)

    lost_N = predicted_N != target_N  # the whole image is right, the region is wrong
    lost_N[whole_wrong_N] = False
    lost_N[: len(target_B)] = False
    found_N = predicted_N == target_N  # the other way round
    found_N[whole_right_N] = False
    found_N[: len(target_B)] = False
    both_wrong_N = predicted_N != target_N
    both_wrong_N[whole_right_N] = False
    both_right_N = predicted_N == target_N
    both_right_N[whole_wrong_N] = False
    if base == "dkd":  # only this one of the three released losses checks itself, which waits for the device
        kinds = (lost_N, found_N, both_wrong_N, both_right_N)
        assert sum(kind.sum() for kind in kinds) == target_N.shape[0]

    weight_N = torch.zeros_like(loss_N)
    weight_N[both_wrong_N] = 1.0
    weight_N[both_right_N] = 1.0
    weight_N[found_N] = values["region_beta"]
    weight_N[lost_N] = values["region_beta"]
    loss = torch.sum(loss_N * weight_N) / target_N.shape[0]
    if torch.isnan(loss) or torch.isinf(loss):
        loss = torch.zeros_like(loss)
    return loss


def losses_of(
    config: RunConfig,
    student: tuple[Tensor, Tensor | None],
    teacher: tuple[Tensor, Tensor | None],
    target_B: Tensor,
    epoch: int,
) -> dict[str, Tensor]:
    """Compute the loss terms of a run's method from (logits (B, K), regions (B, K, R) or None) of both networks."""
    base = config.method.removeprefix("sdd_")
    values = config.parameters[base]
    logits_s, regions_s = student
    logits_t, regions_t = teacher
    ramp = min(epoch / values["warmup_epochs"], 1.0) if values["warmup_epochs"] else 1.0
    ce = values["ce_weight"] * F.cross_entropy(logits_s, target_B)
    if regions_s is None or regions_t is None:
        distilled = ROWS[base](logits_s, logits_t, target_B, values).mean()
    else:
        beta = config.parameters["sdd"]["beta"]
        distilled = decoupled(base, regions_s, regions_t, target_B, {**values, "region_beta": beta})
    return {"ce": ce, "kd": values["weight"] * ramp * distilled}


def head(network: Network, map_BDHW: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Compute the logits, (B, K), and those of the regions of every scale, (B, K, R), or None without scales."""
    regions_BKR = None
    if scales:
        cells_BD44 = F.adaptive_avg_pool2d(map_BDHW, 4)
        pooled = [cells_BD44 if side == 4 else F.adaptive_avg_pool2d(cells_BD44, side) for side in scales]
        regions_RBD = torch.cat([torch.flatten(grid, 2, 3) for grid in pooled], dim=2).permute(2, 0, 1)
        regions, batch, channels = regions_RBD.shape
        logits_NK = network.classify(regions_RBD.reshape(regions * batch, channels))
        regions_BKR = logits_NK.reshape(regions, batch, -1).permute(1, 2, 0)
    whole_BD = F.adaptive_avg_pool2d(map_BDHW, 1).reshape(len(map_BDHW), -1)
    return network.classify(whole_BD), regions_BKR


def forward(network: Network, x_BCHW: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Run a network and its head."""
    return head(network, network.forward_features(x_BCHW), scales)


class Meter:
    """A running mean; a tensor stays a tensor until it is printed."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self.count = 0

    def update(self, value: Any, count: int = 1) -> None:
        """Add a value that stands for `count` images."""
        self.total += value * count
        self.count += count

    @property
    def mean(self) -> Any:
        """Mean over all images."""
        return self.total / self.count


@torch.no_grad()
def accuracy(logits_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 and top-5 accuracy in percent, as tensors."""
    places = min(5, logits_BK.shape[1])
    _, predicted = logits_BK.topk(places, 1, True, True)
    right = predicted.t().eq(target_B.reshape(1, -1).expand(places, -1))
    top1, top5 = (right[:k].reshape(-1).float().sum() * (100.0 / len(target_B)) for k in (1, places))
    return top1, top5


class Trainer:
    """A student with a teacher of its own."""

    def __init__(
        self, config: RunConfig, teacher: Network, num_classes: int, image_size: int, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.scales = config.distiller().scales
        self.teacher = teacher.to(device).eval()
        self.student = create_network(config.student, num_classes, image_size, config.seed).to(device).train()
        self.both = nn.ModuleList([self.student, self.teacher])
        recipe = config.recipe
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate and clear the meters."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.recipe.lr_at(epoch)
        self.student.train()
        self.meters = {name: Meter() for name in ("seconds", "loss", "top1", "top5")}
        self.ce = self.kd = 0.0

    def step(self, image_BCHW: Tensor, target_B: Tensor, epoch: int) -> str:
        """Train on one batch and return the line that the released code prints for it."""
        self.optimizer.zero_grad()
        started = time.time()
        image_BCHW = image_BCHW.to(self.device, non_blocking=True)
        target_B = target_B.to(self.device, non_blocking=True)
        student = forward(self.student, image_BCHW, self.scales)
        with torch.no_grad():
            teacher = forward(self.teacher, image_BCHW, self.scales)
        terms = losses_of(self.config, student, teacher, target_B, epoch)
        loss = torch.stack([term.mean() for term in terms.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.both.parameters(), max_norm=self.config.recipe.clip_norm, norm_type=2)
        self.optimizer.step()
        self.meters["seconds"].update(time.time() - started)
        top1, top5 = accuracy(student[0], target_B)
        batch = len(image_BCHW)
        self.meters["loss"].update(loss.cpu().detach().numpy().mean(), batch)
        self.meters["top1"].update(top1, batch)
        self.meters["top5"].update(top5, batch)
        line = (
            f"epoch {epoch}, {self.meters['seconds'].mean:.3f} s, loss {self.meters['loss'].mean:.4f}, "
            f"top-1 {self.meters['top1'].mean:.3f}, top-5 {self.meters['top5'].mean:.3f}"
        )
        self.ce += terms["ce"].item()
        self.kd += terms["kd"].item()
        return line

    @torch.no_grad()
    def validate(self, batches: Any) -> float:
        """Measure the student's top-1 accuracy over (images, targets) batches, read by the host batch by batch."""
        self.student.eval()
        loss, top1, top5 = Meter(), Meter(), Meter()
        for image_BCHW, target_B in batches:
            image_BCHW = image_BCHW.to(self.device, non_blocking=True)
            target_B = target_B.to(self.device, non_blocking=True)
            logits_BK, _ = forward(self.student, image_BCHW, self.scales)
            loss.update(F.cross_entropy(logits_BK, target_B).cpu().numpy().mean(), len(target_B))
            for meter, value in zip((top1, top5), accuracy(logits_BK, target_B), strict=True):
                meter.update(value, len(target_B))
            _ = f"top-1 {top1.mean:.3f}, top-5 {top5.mean:.3f}"
        return float(top1.mean)
