"""Batch norms of a frozen network folded into the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import Network

#: largest relative difference of the map, in fp32, for folding to count as exact
TOLERANCE = 1e-4


def folded(network: Network, x_BCHW: Tensor) -> Network:
    """Copy a network in eval mode, batch norms folded: w' = w * gamma / sigma, b' = beta - gamma * mu / sigma.

    A batch norm is folded where a convolution feeds it and nothing else, each used once: a network of other order
    (pre-activation) keeps the rest. The maps of `x_BCHW` are compared, and a network that cannot be traced or whose map
    changes by more than rounding is returned unfolded.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    pairs = _foldable(network)
    if not pairs:
        return network
    made = copy.deepcopy(network)
    for convolution, norm in pairs:
        before, after = made.get_submodule(convolution), made.get_submodule(norm)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        _replace(made, convolution, fuse_conv_bn_eval(before, after))
        _replace(made, norm, nn.Identity())
    with torch.no_grad():
        map_BDHW, moved_BDHW = network.forward_features(x_BCHW), made.forward_features(x_BCHW)
    # a NaN difference also keeps the network unfolded
    return made if bool((moved_BDHW - map_BDHW).norm() <= TOLERANCE * map_BDHW.norm()) else network


def _foldable(network: Network) -> list[tuple[str, str]]:
    """Find the pairs (convolution, batch norm) that can be folded, by name, in a trace of the features."""
    features = _Features(network)
    try:
        graph = fx.Tracer().trace(features)
    except Exception:  # control flow that depends on values: such a network is left unfolded
        return []
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    targets = [str(node.target) for node in nodes]
    pairs = []
    for node in nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        convolution, norm = str(source.target), str(node.target)
        # exact types: a subclass may do more than its base
        if (
            type(features.get_submodule(convolution)) is nn.Conv2d
            and type(features.get_submodule(norm)) is nn.BatchNorm2d
            and targets.count(convolution) == targets.count(norm) == 1
        ):
            pairs.append((convolution.removeprefix("network."), norm.removeprefix("network.")))
    return pairs


class _Features(nn.Module):
    """The part of a network that is traced."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network.forward_features(x_BCHW)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
