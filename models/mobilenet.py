"""MobileNets: V2 as in the CIFAR distillation literature, and V1 for ImageNet.

V2: Sandler et al., CVPR 2018, arXiv 1801.04381; width 0.5, expansion 6, and fewer strides (RepDistiller's
"mobile_half", Tian et al., ICLR 2020, arXiv 1910.10699, whose parameter names it keeps).
V1: Howard et al. 2017, arXiv 1704.04861; the student that distillation papers' ImageNet tables call "MobileNetV2".
"""

from __future__ import annotations

from torch import Tensor, nn

from models.base import Network, Stages, registry
from models.layers import LARGEST_SMALL_IMAGE, conv_bn_relu, init_classifier, init_convolutions

#: V2 at width 1: expansion, channels, blocks, stride of the first block
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
#: V2: groups of blocks after which the literature takes features
V2_PUBLISHED_STAGES = (1, 2, 4, 6)
#: V1: channels and stride of every depthwise-separable block
V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class InvertedResidual(nn.Module):
    """Expand 1x1, filter each channel 3x3, project 1x1 without activation; a shortcut when the shape is kept."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *conv_bn_relu(in_channels, hidden, kernel_size=1),
            *conv_bn_relu(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


@registry.register("mobilenet_v2")
class MobileNetV2(Network):
    """Width 0.5; the map is 2x2 on 32x32 images, 7x7 on 224x224 (7x7 stem and max pooling: SDD's CUB form)."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        in_channels = 32 // 2
        if image_size > LARGEST_SMALL_IMAGE:
            layers = [*conv_bn_relu(3, in_channels, kernel_size=7, stride=2), nn.MaxPool2d(2)]
            self.min_image_size = 32
        else:
            layers = conv_bn_relu(3, in_channels, kernel_size=3, stride=2)
            self.min_image_size = 16
        self.conv1 = nn.Sequential(*layers)
        self.blocks = nn.Sequential()
        for expansion, full_width, num_blocks, first_stride in V2_STAGES:
            channels = full_width // 2
            stage = nn.Sequential()
            for index in range(num_blocks):
                stage.append(InvertedResidual(in_channels, channels, first_stride if index == 0 else 1, expansion))
                in_channels = channels
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*conv_bn_relu(in_channels, 1280, kernel_size=1))
        classifier = nn.Linear(1280, num_classes)
        self.classifier = nn.Sequential(classifier)
        init_convolutions(self)
        init_classifier(classifier)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        map_BDHW: Tensor = self.conv2(self.blocks(self.conv1(x_BCHW)))
        return map_BDHW

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        """As published, stages are the linear outputs of bottlenecks, which no activation follows."""
        x, maps = self.conv1(x_BCHW), []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in V2_PUBLISHED_STAGES:
                maps.append(x)
        return Stages(tuple(maps), (), self.conv2(x))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled_D)
        return logits


@registry.register("mobilenet_v1")
class MobileNetV1(Network):
    """Width 1; the map is 7x7 on 224x224 images. Initialised with torch's defaults, like the published student."""

    min_image_size = 32

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Sequential(*conv_bn_relu(3, 32, kernel_size=3, stride=2)))
        in_channels = 32
        for channels, stride in V1_BLOCKS:
            depthwise = conv_bn_relu(in_channels, in_channels, kernel_size=3, stride=stride, groups=in_channels)
            self.model.append(nn.Sequential(*depthwise, *conv_bn_relu(in_channels, channels, kernel_size=1)))
            in_channels = channels
        self.fc = nn.Linear(in_channels, num_classes)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        map_BDHW: Tensor = self.model(x_BCHW)
        return map_BDHW

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.fc(pooled_D)
        return logits
