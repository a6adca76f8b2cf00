"""Stages are those of the literature's feature methods, and change nothing of what a network computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
from models import Network

#: channels and sides of the stages on 32 x 32 images, and whether there are pre-activations
STAGES = {
    "resnet20": ((16, 32, 64), (32, 16, 8), True),
    "resnet8x4": ((64, 128, 256), (32, 16, 8), True),
    "wrn_16_2": ((32, 64, 128), (32, 16, 8), True),
    "vgg8": ((128, 256, 512, 512), (16, 8, 4, 4), True),
    "resnet50": ((256, 512, 1024, 2048), (32, 16, 8, 4), True),
    "mobilenet_v2": ((12, 16, 48, 160), (16, 8, 4, 2), False),
    "shufflenet_v1": ((240, 480, 960), (16, 8, 4), True),
    "shufflenet_v2": ((116, 232, 464), (16, 8, 4), True),
}


def made(name: str) -> Network:
    torch.manual_seed(0)
    return models.create(name, 10, 32)


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_as_published_and_the_map_is_the_same(name: str) -> None:
    widths, sides, has_pre_activations = STAGES[name]
    one = made(name)
    other = copy.deepcopy(one)
    x = torch.randn(2, 3, 32, 32)
    for train in (False, True):
        found = one.train(train).forward_stages(x)
        assert torch.equal(found.map, other.train(train).forward_features(x))
        for (key, value), same in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(value, same), f"{key}: statistics move as in a usual pass"
    assert tuple(each.shape[1] for each in found.maps) == widths
    assert tuple(each.shape[2] for each in found.maps) == sides
    assert len(found.pre_activations) == (len(widths) if has_pre_activations else 0)
    assert [x.shape for x in found.pre_activations] == [x.shape for x in found.maps][: len(found.pre_activations)]


@pytest.mark.parametrize("name", ["resnet20", "vgg8", "resnet50", "shufflenet_v1"])
def test_a_stage_is_the_activated_pre_activation(name: str) -> None:
    found = made(name).eval().forward_stages(torch.randn(2, 3, 32, 32))
    for after, before in zip(found.maps, found.pre_activations, strict=True):
        assert torch.equal(after, before.relu()) and (before < 0).any()
    assert torch.equal(found.maps[-1], found.map)


def test_stages_of_a_wide_resnet_are_raw_sums() -> None:
    network = made("wrn_16_2").eval()
    found = network.forward_stages(torch.randn(2, 3, 32, 32))
    assert all((each < 0).any() for each in found.maps)
    assert torch.equal(found.map, found.pre_activations[-1].relu())
    for norm, each, before in zip(network.norms_before_activation(), found.maps, found.pre_activations, strict=True):
        assert torch.equal(norm(each), before)


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "vgg8", "resnet50"])
def test_norms_give_the_pre_activations(name: str) -> None:
    network = made(name).eval()
    widths = STAGES[name][0]
    norms = network.norms_before_activation()
    assert tuple(norm.num_features for norm in norms) == widths
    found = network.forward_stages(torch.randn(2, 3, 32, 32)).pre_activations
    nn.init.constant_(norms[0].bias, 1000.0)
    moved = network.forward_stages(torch.randn(2, 3, 32, 32)).pre_activations
    assert (moved[0] - found[0]).abs().min() > 100


def test_other_networks_have_no_stages() -> None:
    with pytest.raises(NotImplementedError, match="MobileNetV1 has no stages"):
        models.create("mobilenet_v1", 10, 32).forward_stages(torch.randn(1, 3, 32, 32))
