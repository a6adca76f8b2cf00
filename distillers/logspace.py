"""Softmaxes in log space, shared by the losses: finite values and gradients at any finite logits."""

from __future__ import annotations

import math

from torch import Tensor

from distillers.base import at_least_fp32


def log_softmax(logits_NK: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T) over the classes, (N, K), in fp32 at least."""
    return (at_least_fp32(logits_NK) / temperature).log_softmax(-1)


def at_target(values_NK: Tensor, target_N: Tensor) -> Tensor:
    """The entry of each row's target class, (N,)."""
    return values_NK.gather(1, target_N[:, None])[:, 0]


def without_target(values_NK: Tensor, target_N: Tensor) -> Tensor:
    """The same values with -inf at each row's target class, (N, K)."""
    return values_NK.scatter(1, target_N[:, None], -math.inf)


def split_target(logits_NK: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Split a softmax at temperature T into target against the rest, and the rest among themselves.

    Returns the margin log(p_y / (1 - p_y)), (N,), and log q, (N, K), where q is the softmax over the classes other
    than y. log q at y itself is finite and means nothing: weigh it with 0.
    """
    scaled = at_least_fp32(logits_NK) / temperature
    rest = without_target(scaled, target_N).logsumexp(-1)
    return at_target(scaled, target_N) - rest, scaled - rest[:, None]
