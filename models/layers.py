"""Parts that several families share: the first convolution, conv-bn-relu and the initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import relu

from models.base import Stages

#: images above this many pixels per side get the large stem
LARGEST_SMALL_IMAGE = 64


def stem(channels: int, image_size: int, kernel_size: int = 3) -> nn.Conv2d:
    """First convolution: stride 1 as on CIFAR, or 7x7 with stride 2 on large images (the SDD code's CUB form)."""
    if image_size > LARGEST_SMALL_IMAGE:
        return nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
    return nn.Conv2d(3, channels, kernel_size, padding=kernel_size // 2, bias=False)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> list[nn.Module]:
    """A padded convolution, its batch norm and a ReLU, as layers for a Sequential."""
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=bias
    )
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def residual_stages(x: Tensor, stages: Sequence[nn.Sequential]) -> Stages:
    """Run stages of blocks that end in a ReLU of their `pre_activation`, which is kept for the last of each stage."""
    maps, pre_activations = [], []
    for stage in stages:
        *blocks, last = list[Any](stage)
        for block in blocks:
            x = block(x)
        pre_activations.append(last.pre_activation(x))
        x = relu(pre_activations[-1])
        maps.append(x)
    return Stages(tuple(maps), tuple(pre_activations), x)


def last_norms(stages: Sequence[nn.Sequential], name: str) -> tuple[nn.BatchNorm2d, ...]:
    """The batch norm `name` of the last block of every stage."""
    return tuple(cast(nn.BatchNorm2d, getattr(stage[-1], name)) for stage in stages)


def init_convolutions(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), biases zero (He et al., ICCV 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(classifier: nn.Linear) -> None:
    """Draw the classifier from N(0, 0.01^2), bias zero, as VGG and MobileNetV2 do."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
