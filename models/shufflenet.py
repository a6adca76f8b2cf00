"""ShuffleNets for small images, as in the CIFAR distillation literature.

V1: Zhang et al., CVPR 2018, arXiv 1707.01083; three groups. V2: Ma et al., ECCV 2018, arXiv 1807.11164; width 1.
A 1x1 stem replaces the strided one (RepDistiller, Tian et al., ICLR 2020, arXiv 1910.10699, whose parameter names they
keep). Initialised with torch's defaults, like the published networks. The map is 4x4 on 32x32 images and 14x14 on
224x224.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from models.base import Network, Stages, registry
from models.layers import residual_stages, stem

#: blocks after the first, strided one of each stage
NUM_BLOCKS = (3, 7, 3)


def channel_shuffle(x_BDHW: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups: (group, member) becomes (member, group)."""
    batch, channels, height, width = x_BDHW.shape
    grouped = x_BDHW.reshape(batch, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).flatten(1, 2)


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def _pointwise(in_channels: int, channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 1, groups=groups, bias=False)


class GroupedBottleneck(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; with stride 2 the pooled input is concatenated."""

    def __init__(self, in_channels: int, channels: int, stride: int, in_groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.in_groups = in_groups
        branch = channels - in_channels if stride == 2 else channels
        hidden = branch // 4
        self.conv1 = _pointwise(in_channels, hidden, in_groups)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = _depthwise(hidden, stride)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = _pointwise(hidden, branch, groups=3)
        self.bn3 = nn.BatchNorm2d(branch)

    def pre_activation(self, x: Tensor) -> Tensor:
        """Compute the sum of the two paths, or with stride 2 both of them."""
        out = channel_shuffle(relu(self.bn1(self.conv1(x))), self.in_groups)
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        total: Tensor = out + x
        return total

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.pre_activation(x))


@registry.register("shufflenet_v1")
class ShuffleNetV1(Network):
    """Stages of 240, 480 and 960 channels; the first 1x1 convolution is not grouped."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = stem(24, image_size, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = self._stage(24, 240, NUM_BLOCKS[0], in_groups=1)
        self.layer2 = self._stage(240, 480, NUM_BLOCKS[1], in_groups=3)
        self.layer3 = self._stage(480, 960, NUM_BLOCKS[2], in_groups=3)
        self.linear = nn.Linear(960, num_classes)
        self.min_image_size = 8 * self.conv1.stride[0]

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, in_groups: int) -> nn.Sequential:
        first = GroupedBottleneck(in_channels, channels, stride=2, in_groups=in_groups)
        rest = (GroupedBottleneck(channels, channels, stride=1, in_groups=3) for _ in range(num_blocks))
        return nn.Sequential(first, *rest)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x_BCHW)))
        map_BDHW: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return map_BDHW

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        x = relu(self.bn1(self.conv1(x_BCHW)))
        return residual_stages(x, (self.layer1, self.layer2, self.layer3))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.linear(pooled_D)
        return logits


class SplitBlock(nn.Module):
    """V2, stride 1: half of the channels pass through, the other half is convolved; then shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = _pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = _depthwise(half, stride=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two halves of the channels: as they came, and convolved, before its activation."""
        kept, out = x.chunk(2, dim=1)
        out = relu(self.bn1(self.conv1(out)))
        return kept, self.bn3(self.conv3(self.bn2(self.conv2(out))))

    def forward(self, x: Tensor) -> Tensor:
        kept, out = self.halves(x)
        return channel_shuffle(torch.cat([kept, relu(out)], dim=1), groups=2)


class DownBlock(nn.Module):
    """V2, stride 2: two branches see all channels and give half of the output each; then shuffle."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = _depthwise(in_channels, stride=2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = _pointwise(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _depthwise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = _pointwise(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = relu(self.bn3(self.conv3(x)))
        right = relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return channel_shuffle(torch.cat([left, right], dim=1), groups=2)


@registry.register("shufflenet_v2")
class ShuffleNetV2(Network):
    """Stages of 116, 232 and 464 channels and a last 1x1 convolution to 1024."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = stem(24, image_size, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = self._stage(24, 116, NUM_BLOCKS[0])
        self.layer2 = self._stage(116, 232, NUM_BLOCKS[1])
        self.layer3 = self._stage(232, 464, NUM_BLOCKS[2])
        self.conv2 = _pointwise(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)
        self.min_image_size = 8 * self.conv1.stride[0]

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int) -> nn.Sequential:
        return nn.Sequential(DownBlock(in_channels, channels), *(SplitBlock(channels) for _ in range(num_blocks)))

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x_BCHW)))
        return relu(self.bn2(self.conv2(self.layer3(self.layer2(self.layer1(x))))))

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        """As published, the pre-activation of a stage is taken before the shuffle, in another order of channels."""
        x, maps, pre_activations = relu(self.bn1(self.conv1(x_BCHW))), [], []
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = list[Any](stage)
            for block in blocks:
                x = block(x)
            kept, out = last.halves(x)
            pre_activations.append(torch.cat([kept, out], dim=1))
            x = channel_shuffle(torch.cat([kept, relu(out)], dim=1), groups=2)
            maps.append(x)
        return Stages(tuple(maps), tuple(pre_activations), relu(self.bn2(self.conv2(x))))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.linear(pooled_D)
        return logits
