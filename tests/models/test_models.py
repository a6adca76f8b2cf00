"""Published facts: sizes, map sizes and parameter names; and what `create` refuses."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import models
from benchmark.errors import UserError
from distillers.feature_loss import shapes_only

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "state_dict_digests.json").read_text())["networks"]

#: name: (millions of parameters as printed, map side)
CIFAR_100 = {
    "resnet8x4": (1.234, 8),
    "resnet32x4": (7.434, 8),
    "wrn_16_2": (0.703, 8),
    "wrn_40_2": (2.255, 8),
    "vgg8": (3.965, 4),
    "vgg13": (9.462, 4),
    "resnet50": (23.705, 4),
    "mobilenet_v2": (0.813, 2),
    "shufflenet_v1": (0.949, 4),
    "shufflenet_v2": (1.356, 4),
}
CUB_200 = {
    "resnet8x4": (1.263, 28),
    "resnet32x4": (7.463, 28),
    "vgg8": (4.016, 28),
    "vgg13": (9.513, 28),
    "resnet50": (23.918, 14),
    "shufflenet_v1": (1.049, 14),
    "mobilenet_v2": (0.943, 7),
}
IMAGENET = {"mobilenet_v1": (4.232, 7), "torchvision/resnet18": (11.690, 7)}
SETTINGS = [
    pytest.param(name, num_classes, image_size, *facts, id=f"{name}-{image_size}")
    for table, num_classes, image_size in ((CIFAR_100, 100, 32), (CUB_200, 200, 224), (IMAGENET, 1000, 224))
    for name, facts in table.items()
]


def map_side(network: models.Network, image_size: int) -> int:
    """Side of the map, found without computing anything."""
    x_BCHW = torch.empty(2, 3, image_size, image_size, device="meta")
    height, width = shapes_only(network).forward_features(x_BCHW).shape[2:]
    assert height == width
    return height


@pytest.mark.parametrize(("name", "num_classes", "image_size", "millions", "side"), SETTINGS)
def test_size_and_map_are_as_published(
    name: str, num_classes: int, image_size: int, millions: float, side: int
) -> None:
    with torch.device("cpu" if "/" in name else "meta"):  # others are tried when they are made
        network = models.create(name, num_classes, image_size)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert map_side(network, image_size) == side


@pytest.mark.parametrize(
    ("name", "image_size", "side"),
    [
        ("resnet8_half", 16, 4),
        ("resnet8x4", 16, 4),
        ("vgg8", 16, 2),
        ("shufflenet_v2", 16, 2),
        ("vgg8", 64, 4),
        ("shufflenet_v2", 224, 14),
        ("wrn_16_2", 224, 28),
    ],
)
def test_map_on_other_image_sizes(name: str, image_size: int, side: int) -> None:
    with torch.device("meta"):
        network = models.create(name, 10, image_size)
    assert map_side(network, image_size) == side


@pytest.mark.parametrize("name", GOLDEN)
def test_parameter_names_are_those_of_the_published_checkpoints(name: str) -> None:
    with torch.device("meta"):
        state = models.create(name, GOLDEN[name]["num_classes"], image_size=32).state_dict()
    lines = [f"{key}:{'x'.join(map(str, tensor.shape))}" for key, tensor in sorted(state.items())]
    assert len(lines) == GOLDEN[name]["entries"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN[name]["sha256"]


def test_torchvision_weights_load_as_they_are() -> None:
    network = models.create("torchvision/resnet18", 7, 32)
    network.load_state_dict(torchvision.models.resnet18(num_classes=7).state_dict(), strict=True)


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("torchvision/resnet18", True),
        ("torchvision/densenet121", True),
        ("torchvision/mobilenet_v2", False),  # dropout
        ("torchvision/mobilenet_v3_small", False),  # hidden layer
        ("torchvision/convnext_tiny", False),  # layer norm
        ("timm/resnet10t", True),
        ("timm/convnext_atto", False),
    ],
)
def test_linear_head_is_found_by_trial(name: str, linear: bool) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    assert models.create(name, 10, 64).linear_head is linear


def test_trial_leaves_random_state_and_statistics_alone() -> None:
    torch.manual_seed(3)
    expected = torchvision.models.mobilenet_v2(num_classes=10).state_dict()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    network = models.create("torchvision/mobilenet_v2", 10, 32)
    assert torch.equal(torch.get_rng_state(), after)
    assert network.training
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("resnet8x", 32, "did you mean 'resnet8x4'"),
        ("torchvision/resnet81", 32, "did you mean 'resnet18'"),
        ("timm/resnet18x", 32, "did you mean 'resnet18'"),
        ("timm/vit_tiny_patch16_224", 224, "its features have shape"),
        ("torchvision/squeezenet1_0", 64, "no feature map that its head classifies"),
        ("torchvision/squeezenet1_0", 8, "cannot take 8x8 images: .*; it takes 32x32"),
        ("timm/vit_tiny_patch16_224", 32, "cannot take 32x32 images: Input height .*; it takes 224x224"),
        ("mobilenet_v2", 8, "'mobilenet_v2' needs images of at least 16 pixels: at image size 8"),
        ("mobilenet_v1", 16, "'mobilenet_v1' needs images of at least 32 pixels"),
    ],
)
def test_refusals_say_why(name: str, image_size: int, message: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=message):
        models.create(name, 10, image_size)


def test_a_head_with_pooling_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class MaxPooled(torchvision.models.ResNet):
        def __init__(self, num_classes: int) -> None:
            super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
            self.avgpool = torch.nn.AdaptiveMaxPool2d(1)

    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, num_classes: MaxPooled(num_classes))
    with pytest.raises(UserError, match="does not classify the mean of its feature map"):
        models.create("torchvision/resnet18", 10, 64)


def test_without_timm_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'timm>=1\.0\.15'"):
        models.create("timm/resnet18", 10, 32)


def test_names_match_a_pattern() -> None:
    assert models.names("wrn_*") == ["wrn_16_2", "wrn_40_1", "wrn_40_2"]
