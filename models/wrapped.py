"""Adapt other libraries' classifiers to `Network`, and refuse those that do not fit."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from models.base import Network

#: sides that networks are made for
USUAL_SIZES = (16, 32, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 336, 384, 448, 512)


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
    x_BCHW = torch.randn(2, 3, image_size, image_size, generator=generator, dtype=torch.float64, device="cpu")
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
            trial(torch.empty(2, 3, side, side, device="meta"))
        except Exception:  # as many kinds as there are networks
            continue
        return side
    return None


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
