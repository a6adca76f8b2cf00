"""VGG with batch norm and one linear layer (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556).

Configurations and parameter names are those of RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from models.base import Network, Stages, registry
from models.layers import conv_bn_relu, init_classifier, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five blocks, pooled after each of the first three; the map is 4x4 on 32x32 images and 28x28 on 224x224.

    As published, 64x64 images are pooled once more, after the fourth block.
    """

    def __init__(self, convolutions_per_block: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.pooled_blocks = 4 if image_size == 64 else 3
        self.min_image_size = 2**self.pooled_blocks
        in_channels = 3
        for index, width in enumerate(WIDTHS):
            layers: list[nn.Module] = []
            for _ in range(convolutions_per_block):
                layers += conv_bn_relu(in_channels, width, kernel_size=3, bias=True)
                in_channels = width
            self.add_module(f"block{index}", nn.Sequential(*layers))
        self.classifier = nn.Linear(in_channels, num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for index in range(len(WIDTHS)):
            x = self.get_submodule(f"block{index}")(x)
            if index < self.pooled_blocks:
                x = max_pool2d(x, 2)
        return x

    def forward_stages(self, x_BCHW: Tensor) -> Stages:
        """The first block is the stem; a stage is its block's output, before any pooling."""
        x, maps, pre_activations = x_BCHW, [], []
        for index in range(len(WIDTHS)):
            if 0 < index <= self.pooled_blocks:
                x = max_pool2d(x, 2)
            *layers, _ = self.get_submodule(f"block{index}").children()
            for layer in layers:
                x = layer(x)
            pre_activations.append(x)
            x = relu(x)
            maps.append(x)
        return Stages(tuple(maps[1:]), tuple(pre_activations[1:]), x)

    def norms_before_activation(self) -> tuple[nn.BatchNorm2d, ...]:
        norms = [self.get_submodule(f"block{index}")[-2] for index in range(1, len(WIDTHS))]  # type: ignore[index]
        return tuple(norm for norm in norms if isinstance(norm, nn.BatchNorm2d))

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled_D)
        return logits


registry.add("vgg8", partial(VGG, 1))
registry.add("vgg13", partial(VGG, 2))
