"""The loss by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import distillers
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.perf.reference import losses_of
from benchmark.perf.workload import EPOCH, PAIRS, run_config
from benchmark.randomness import generator
from distillers import Outputs
from distillers.regions import num_regions


def batch_of(setting: Setting, classes: int) -> int:
    """Batch size for a number of classes: the reference holds about 20 tensors as large as the regions' logits."""
    return setting.batch_size if classes <= 1000 else setting.choose(4, 16)


@measurement("Loss alone", quick_s=4, full_s=60)
def losses(setting: Setting) -> Iterator[SideBySide]:
    """Cross-entropy and distillation, forward and backward to the logits, from the logits of the image and of R = 21
    regions; each side's logits lie in memory as its own head leaves them."""
    for method in ("sdd_kd", "sdd_dkd", "sdd_nkd"):
        for classes in (100, 1000, 21000):
            batch = batch_of(setting, classes)
            found = setting.interleaved(tasks(setting, method, batch, classes), quick_s=0.4, full_s=5)
            title = distillers.registry.get(method).title
            yield timed(f"{title}, K = {classes}, B = {batch}", found["reference"], found["ours"])


def tasks(setting: Setting, method: str, batch: int, classes: int) -> dict[str, Task]:
    """Both ways to the gradient of the same random logits."""
    config = run_config(PAIRS[0], method)
    distiller = config.distiller()
    regions = num_regions(distiller.scales)
    rng = generator("perf logits")

    def draw() -> tuple[Tensor, Tensor]:
        drawn = torch.randn(batch, classes, generator=rng), torch.randn(batch, regions, classes, generator=rng)
        logits_BK, regions_BRK = (2 * logits.to(setting.device) for logits in drawn)
        return logits_BK, regions_BRK

    student, teacher = draw(), draw()
    target_B = torch.randint(classes, (batch,), generator=rng).to(setting.device)
    ours_leaves = [logits.clone().requires_grad_() for logits in student]
    ours_student = Outputs(ours_leaves[0], ours_leaves[1])
    ours_teacher = Outputs(*teacher)
    # the released head classifies region by region: its (B, K, R) is a view of (R, B, K)
    theirs_student = [student[0].clone(), student[1].transpose(0, 1).contiguous()]
    theirs_teacher = [teacher[0], teacher[1].transpose(0, 1).contiguous()]
    leaves = [logits.requires_grad_() for logits in theirs_student]

    def reference() -> None:
        for leaf in leaves:
            leaf.grad = None
        shown = theirs_teacher[0], theirs_teacher[1].permute(1, 2, 0)
        terms = losses_of(config, (leaves[0], leaves[1].permute(1, 2, 0)), shown, target_B, EPOCH)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]

    def ours() -> None:
        for leaf in ours_leaves:
            leaf.grad = None
        terms = distiller.losses({"weak": ours_student}, {"weak": ours_teacher}, target_B, EPOCH)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]

    return {"reference": reference, "ours": ours}
