"""Wide residual networks with pre-activation (Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146).

Parameter names are those of RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import relu

from models.base import Network, Stages, registry
from models.layers import init_convolutions, stem


class PreActivationBlock(nn.Module):
    """Two normalised and activated 3x3 convolutions; a projected shortcut starts from the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_activation(relu(self.bn1(x), inplace=True), x)

    def after_activation(self, activated: Tensor, x: Tensor) -> Tensor:
        """Compute the block from its normalised and activated input, and that input as it came."""
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(activated)), inplace=True))
        return out + shortcut


class WideResNet(Network):
    """Wide ResNet with `depth = 6n + 4`; the map is 8x8 on 32x32 images."""

    def __init__(self, depth: int, widen_factor: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = stem(16, image_size)
        self.block1 = _stage(blocks, 16, widths[0], stride=1)
        self.block2 = _stage(blocks, widths[0], widths[1], stride=2)
        self.block3 = _stage(blocks, widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        self.min_image_size = 4 * self.conv1.stride[0]
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x_BCHW))))
        return relu(self.bn1(x), inplace=True)

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        """As published, a stage is the raw sum of its last block; the next batch norm gives its pre-activation."""
        x = self.block1(self.conv1(x_BCHW))
        maps, pre_activations = [x], []
        for stage in (self.block2, self.block3):
            first, *blocks = self._blocks(stage)
            pre_activations.append(first.bn1(x))  # once: in training its statistics move with every call
            x = first.after_activation(relu(pre_activations[-1]), x)
            for block in blocks:
                x = block(x)
            maps.append(x)
        pre_activations.append(self.bn1(x))
        return Stages(tuple(maps), tuple(pre_activations), relu(pre_activations[-1]))

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        return *(self._blocks(stage)[0].bn1 for stage in (self.block2, self.block3)), self.bn1

    @staticmethod
    def _blocks(stage: nn.Sequential) -> list[PreActivationBlock]:
        return list(cast(Iterable[PreActivationBlock], stage.get_submodule("layer")))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.fc(pooled_D)
        return logits


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride)
    rest = (PreActivationBlock(channels, channels, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))


registry.add("wrn_16_2", partial(WideResNet, 16, 2))
registry.add("wrn_40_1", partial(WideResNet, 40, 1))
registry.add("wrn_40_2", partial(WideResNet, 40, 2))
