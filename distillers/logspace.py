"""Softmaxes in log space for losses in plain autograd: finite values and gradients at any finite logits."""

from __future__ import annotations

from torch import Tensor

from distillers.base import at_least_fp32


def log_softmax(logits_NK: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T) over the classes, (N, K), in fp32 at least."""
    return (at_least_fp32(logits_NK) / temperature).log_softmax(-1)


def at_target(values_NK: Tensor, target_N: Tensor) -> Tensor:
    """Pick the entry of each row's target class, (N,)."""
    return values_NK.gather(1, target_N[:, None])[:, 0]
