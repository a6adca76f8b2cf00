"""What holds for every network: a file added to `models/` is tested here the moment it exists."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

import models

NUM_CLASSES = 7
NAMES = [*models.names(), "torchvision/resnet18", "torchvision/mobilenet_v2"]


def make(name: str) -> tuple[models.Network, torch.Tensor]:
    """A network that follows the seed, and a batch of two small images."""
    torch.manual_seed(0)
    network = models.create(name, NUM_CLASSES, image_size=32)
    x_BCHW = torch.randn(2, 3, 32, 32)
    return network, x_BCHW


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_every_parameter_gets_a_gradient(name: str) -> None:
    network, x_BCHW = make(name)
    assert network.training
    logits_BK = network(x_BCHW)
    assert logits_BK.shape == (2, NUM_CLASSES)
    logits_BK.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {key}"
        assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_head_classifies_the_mean_of_the_map_and_any_leading_axes(name: str) -> None:
    network, x_BCHW = make(name)
    batch, channels, height, width = network.forward_features(x_BCHW).shape
    assert (batch, height) == (2, width)
    pooled_BRD = torch.randn(batch, 3, channels)
    if network.linear_head:
        draws = not torch.equal(network.classify(pooled_BRD), network.classify(pooled_BRD))
        assert not draws, f"{name}: its head draws in training (dropout), which is not affine: set linear_head False"

    network.eval()
    map_BDHW = network.forward_features(x_BCHW)
    torch.testing.assert_close(network.classify(map_BDHW.mean(dim=(2, 3))), network(x_BCHW))
    logits_BRK = network.classify(pooled_BRD)
    assert logits_BRK.shape == (batch, 3, NUM_CLASSES)
    torch.testing.assert_close(network.classify(pooled_BRD[1, 2]), logits_BRK[1, 2])
    if network.linear_head:
        torch.testing.assert_close(network.classify(pooled_BRD.mean(dim=1)), logits_BRK.mean(dim=1))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_weights_survive_safetensors_and_follow_the_seed(name: str) -> None:
    network, x_BCHW = make(name)
    again, _ = make(name)
    same = again.state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, same[key]), f"{key} does not follow the seed"

    network(x_BCHW)
    again.load_state_dict(load(save(network.state_dict())), strict=True)
    assert torch.equal(network.eval()(x_BCHW), again.eval()(x_BCHW))
