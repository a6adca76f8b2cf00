"""Split other libraries' classifiers into feature map and head, and refuse those that do not fit."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from distillers.network import Network

#: sides that networks are made for
USUAL_SIZES = (16, 32, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 336, 384, 448, 512)
#: names that torchvision gives to the layer after the average pool
HEADS = ("fc", "classifier", "head", "heads")


def adapt(model: nn.Module, image_size: int = 224) -> Network:
    """Split a classifier of torchvision or timm that you have made; the returned network shares its layers.

    It is checked on random images of `image_size` pixels a side that `classify(mean(map))` gives the model's own
    logits: only then are the logits of a region what the model would say about it.

    Raises UserError with the reason when the model has no feature map that its head classifies.
    """
    if isinstance(model, Network):
        return model
    name = type(model).__name__
    try:
        is_timms = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        network = TimmNetwork(model) if is_timms else TorchvisionNetwork(model)
        return adopt(name, network, model, image_size)
    except UserError as error:
        raise UserError(
            f"{error}; give the loss a feature map and a head of your own, or logits to a method without scales"
        ) from error


class TorchvisionNetwork(Network):
    """A torchvision model: the layers before `avgpool`, in their order, compute the map; the layer after it classifies.

    The layers keep their names, so torchvision's weight files load unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        children = dict(model.named_children())
        found = [name for name in HEADS if name in children]
        if not found:
            raise UserError(
                f"model '{type(model).__name__}' has no layer {', '.join(HEADS[:-1])} or {HEADS[-1]} after its map"
            )
        self._head = found[0]
        self._body = []
        for name, child in children.items():
            if name in ("avgpool", self._head):
                break
            self._body.append(name)
            self.add_module(name, child)
        self.add_module(self._head, children[self._head])
        # DenseNet's last ReLU, and ConvNeXt's flattening of the pooled map, are not among the layers before the head
        self._relu = type(model).__name__ == "DenseNet"
        self._pooled_map = any(isinstance(module, nn.Flatten) for module in children[self._head].modules())

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for name in self._body:
            x = self.get_submodule(name)(x)
        return x.relu() if self._relu else x

    def classify(self, pooled_D: Tensor) -> Tensor:
        head = self.get_submodule(self._head)
        if not self._pooled_map:
            logits: Tensor = head(pooled_D)
            return logits
        flat: Tensor = head(pooled_D.reshape(-1, pooled_D.shape[-1], 1, 1))
        return flat.reshape(*pooled_D.shape[:-1], -1)


class TimmNetwork(Network):
    """A timm model, split by timm into features and head; the head classifies a pooled vector as a map of one cell."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        map_BDHW: Tensor = self.network.forward_features(x_BCHW)
        return map_BDHW

    def classify(self, pooled_D: Tensor) -> Tensor:
        flat: Tensor = self.network.forward_head(pooled_D.reshape(-1, pooled_D.shape[-1], 1, 1))
        return flat.reshape(*pooled_D.shape[:-1], -1)


def adopt(name: str, network: Network, original: nn.Module, image_size: int) -> Network:
    """Check that `network` gives the logits of `original`, set its `linear_head` by trial, and return it.

    Copies of both are tried in float64 and eval mode, on two random images: `classify(mean(map))` must equal the
    original's logits. Weights, batch-norm statistics and torch's global RNG stay as they are.

    Raises UserError with the reason when the original cannot take such images, with a size that it takes, or its head
    does not fit.
    """
    trial, reference = copy.deepcopy((network, original))
    trial.cpu().double().eval()
    reference.cpu().double().eval()
    generator = torch.Generator().manual_seed(0)
    shape = 2, _num_channels(original), image_size, image_size
    x_BCHW = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        try:
            own_BK: Tensor = reference(x_BCHW)
        except Exception as error:
            other = _other_size(original, image_size)
            takes = f"; it takes {other}x{other}" if other else ""
            raise UserError(
                f"model '{name}' cannot take {image_size}x{image_size} images: {_line(error).rstrip('.!')}{takes}"
            ) from error
        try:
            map_BDHW = trial.forward_features(x_BCHW)
            if map_BDHW.dim() != 4:
                raise ValueError(f"its features have shape {tuple(map_BDHW.shape)}, a map would be (B, D, H, W)")
            logits_BK = trial.classify(map_BDHW.mean(dim=(2, 3)))
            if logits_BK.shape != own_BK.shape:
                raise ValueError(f"a pooled vector gives logits {tuple(logits_BK.shape)}, not {tuple(own_BK.shape)}")
        except Exception as error:
            raise UserError(f"model '{name}' has no feature map that its head classifies: {_line(error)}") from error
        # relative to the part of the logits that depends on the image, which is tiny in some untrained networks
        constant_K = trial.classify(torch.zeros(map_BDHW.shape[1], dtype=torch.float64, device="cpu"))
        if not (logits_BK - own_BK).abs().max() <= 1e-6 * (own_BK - constant_K).abs().max():
            raise UserError(
                f"model '{name}' does not classify the mean of its feature map (its head pools in its own way), "
                "so its regions cannot be classified"
            )
        network.linear_head = _is_affine(trial, num_features=map_BDHW.shape[1])
    return network


def _other_size(network: nn.Module, image_size: int) -> int | None:
    """Find the usual image side nearest to `image_size` that the network takes, by shapes alone."""
    trial = copy.deepcopy(network).to("meta").eval()
    for side in sorted(USUAL_SIZES, key=lambda side: abs(side - image_size)):
        try:
            trial(torch.empty(2, _num_channels(network), side, side, device="meta"))
        except Exception:  # as many kinds as there are networks
            continue
        return side
    return None


def _num_channels(network: nn.Module) -> int:
    """Number of channels of the images that a network takes: those of its first convolution."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _is_affine(network: Network, num_features: int) -> bool:
    """Whether `classify` commutes with averaging, also in training: dropout in the head would draw once per region."""
    generator = torch.Generator().manual_seed(1)
    vectors_D = torch.randn(2, num_features, generator=generator, dtype=torch.float64, device="cpu")
    of_mean_K, mean_K = network.classify(vectors_D.mean(dim=0)), network.classify(vectors_D).mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        network.train()
        repeatable = torch.equal(network.classify(vectors_D), network.classify(vectors_D))
    return repeatable and torch.allclose(of_mean_K, mean_K, rtol=1e-9, atol=1e-9)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
