"""From a feature map to the logits of image and regions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmark.perf import reference
from benchmark.perf.base import Setting, SideBySide, measurement, timed
from benchmark.perf.measure import Task
from benchmark.randomness import generator
from distillers.regions import region_logits
from models import Network

SCALES = (1, 2, 4)


class MapClassifier(Network):
    """A network that takes a feature map as its input and classifies it linearly."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward_features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW

    def classify(self, pooled_D: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(pooled_D)
        return logits


@measurement("Head alone", quick_s=2, full_s=25)
def head(setting: Setting) -> Iterator[SideBySide]:
    """Pooling a feature map to 21 regions and classifying them and the image, forward and backward: scale by scale on
    an NCHW map, against one constant pooling matrix on a channels-last map."""
    for channels, side, classes in ((256, 8, 100), (512, 4, 100), (512, 7, 1000)):
        found = setting.interleaved(tasks(setting, channels, side, classes), quick_s=0.6, full_s=5)
        yield timed(f"map {channels} × {side} × {side}, K = {classes}", found["reference"], found["ours"])


def tasks(setting: Setting, channels: int, side: int, classes: int) -> dict[str, Task]:
    """Both heads on the same random map."""
    rng = generator("perf map")
    drawn = torch.randn(setting.batch_size, channels, side, side, generator=rng).to(setting.device)
    network = MapClassifier(channels, classes).to(setting.device)
    plain = drawn.clone().requires_grad_()
    channels_last = drawn.to(memory_format=torch.channels_last).clone().requires_grad_()

    def clear() -> None:
        network.zero_grad(set_to_none=True)
        plain.grad = channels_last.grad = None

    def theirs() -> None:
        clear()
        logits_BK, regions_BKR = reference.head(network, plain, SCALES)
        assert regions_BKR is not None
        (logits_BK.sum() + regions_BKR.sum()).backward()  # type: ignore[no-untyped-call]

    def ours() -> None:
        clear()
        logits_BK = network.classify(channels_last.mean(dim=(2, 3)))
        regions_BRK = region_logits(channels_last, network.classify, network.linear_head, SCALES, "from_4x4")
        (logits_BK.sum() + regions_BRK.sum()).backward()  # type: ignore[no-untyped-call]

    return {"reference": theirs, "ours": ours}
