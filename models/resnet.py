"""ResNet-50 for small images: a 3x3 stem and no max pooling (He et al., CVPR 2016, arXiv 1512.03385).

Parameter names are those of RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699). The ImageNet form is
`torchvision/resnet50`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from models.base import Network, Stages, registry
from models.layers import init_convolutions, last_norms, residual_stages, stem

#: channels before expansion, blocks, stride of the first block
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the last one widens by four."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def pre_activation(self, x: Tensor) -> Tensor:
        """Compute the sum of the two paths."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = relu(self.bn2(self.conv2(out)), inplace=True)
        total: Tensor = self.bn3(self.conv3(out)) + self.shortcut(x)
        return total

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.pre_activation(x), inplace=True)


@registry.register("resnet50")
class ResNet50(Network):
    """ResNet-50; the map is 4x4 on 32x32 images and 14x14 on 224x224."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        in_channels = STAGES[0][0]
        self.conv1 = stem(in_channels, image_size)
        self.bn1 = nn.BatchNorm2d(in_channels)
        stages = []
        for channels, num_blocks, first_stride in STAGES:
            stage = nn.Sequential()
            for index in range(num_blocks):
                stage.append(Bottleneck(in_channels, channels, first_stride if index == 0 else 1))
                in_channels = EXPANSION * channels
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(in_channels, num_classes)
        self.min_image_size = 8 * self.conv1.stride[0]
        init_convolutions(self)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        map_BDHW: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return map_BDHW

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        x = relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        return residual_stages(x, (self.layer1, self.layer2, self.layer3, self.layer4))

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        return last_norms((self.layer1, self.layer2, self.layer3, self.layer4), "bn3")

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.linear(pooled_D)
        return logits
