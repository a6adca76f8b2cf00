"""ResNets for small images: three stages of basic blocks (He et al., CVPR 2016, arXiv 1512.03385, section 4.2).

Depths, widths (`x4`) and parameter names are those of RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from models.base import Network, Stages, registry
from models.layers import init_convolutions, last_norms, residual_stages, stem


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def pre_activation(self, x: Tensor) -> Tensor:
        """Compute the sum of the two paths."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        total: Tensor = self.bn2(self.conv2(out)) + self.downsample(x)
        return total

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.pre_activation(x), inplace=True)


class CifarResNet(Network):
    """ResNet with `depth = 6n + 2`; the map is 8x8 on 32x32 images (4x4 on 16x16, 28x28 on 224x224)."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, image_size: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = stem(widths[0], image_size)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(blocks, widths[0], widths[1], stride=1)
        self.layer2 = _stage(blocks, widths[1], widths[2], stride=2)
        self.layer3 = _stage(blocks, widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        self.min_image_size = 4 * self.conv1.stride[0]
        init_convolutions(self)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        map_BDHW: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return map_BDHW

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        x = relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        return residual_stages(x, (self.layer1, self.layer2, self.layer3))

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        return last_norms((self.layer1, self.layer2, self.layer3), "bn2")

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.fc(pooled_D)
        return logits


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))


#: widths of the first convolution and of the three stages
NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
registry.add("resnet8", partial(CifarResNet, 8, NARROW))
registry.add("resnet20", partial(CifarResNet, 20, NARROW))
registry.add("resnet32", partial(CifarResNet, 32, NARROW))
registry.add("resnet56", partial(CifarResNet, 56, NARROW))
registry.add("resnet110", partial(CifarResNet, 110, NARROW))
registry.add("resnet8x4", partial(CifarResNet, 8, WIDE))
registry.add("resnet32x4", partial(CifarResNet, 32, WIDE))
# teacher and student of the 16x16 digits: half the width of resnet8x4, and of resnet8
registry.add("resnet8x2", partial(CifarResNet, 8, (16, 32, 64, 128)))
registry.add("resnet8_half", partial(CifarResNet, 8, (8, 8, 16, 32)))
