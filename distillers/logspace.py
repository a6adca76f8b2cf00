"""Softmaxes in log space, shared by the losses: finite values and gradients at any finite logits.

`log_softmax` serves losses written in plain autograd, the rest those with a gradient in closed form (`analytic`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from distillers.base import at_least_fp32

LN2 = math.log(2)


def log_softmax(logits_NK: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(z / T) over the classes, (N, K), in fp32 at least."""
    return (at_least_fp32(logits_NK) / temperature).log_softmax(-1)


def at_target(values_NK: Tensor, target_N: Tensor) -> Tensor:
    """The entry of each row's target class, (N,)."""
    return values_NK.gather(1, target_N[:, None])[:, 0]


class Exponents(NamedTuple):
    """Shifted logits in powers of two: b = (z / T - max z / T) / ln 2, whose largest is 0.

    Then softmax(z / T) = 2^b / S and its logarithm b ln 2 - log S with S = sum_k 2^b_k in [1, K]: b and log S keep
    their digits where the softmax underflows. Base 2 because torch takes 2^x four times as fast as e^x on a CPU.
    """

    #: b, (N, K)
    values: Tensor
    #: max z / (T ln 2), (N,)
    largest: Tensor


class Softmax(NamedTuple):
    """A softmax as 2^b and S."""

    #: 2^b, (N, K)
    powers: Tensor
    #: S, (N,)
    total: Tensor


def _scale(temperature: float) -> float:
    return 1 / (temperature * LN2)


def exponents(
    logits_NK: Tensor, temperature: float, without_N: Tensor | None = None, out_NK: Tensor | None = None
) -> Exponents:
    """Exponents over the classes, or over those other than each row's `without_N`; in `out_NK` if it is given.

    The class left out gets a finite exponent whose power is 0, the same for all logits.
    """
    values = torch.mul(logits_NK, _scale(temperature), out=out_NK)
    if without_N is not None:
        # not -inf, for which 0 times an exponent were NaN; a quarter, so that subtracting the maximum cannot overflow
        values.scatter_(1, without_N[:, None], torch.finfo(values.dtype).min / 4)
    largest = values.amax(-1, keepdim=True)
    return Exponents(values.sub_(largest), largest[:, 0])


def margin(logit_N: Tensor, largest_N: Tensor, total_N: Tensor, temperature: float) -> Tensor:
    """log(p / (1 - p)), (N,), of a class by its logit, and the largest exponent and S of the others."""
    # rounded as the exponents are: what they share cancels
    return (logit_N * _scale(temperature)).sub_(largest_N).sub_(total_N.log2()).mul_(LN2)


# What follows overwrites what it is given: the fewer temporaries a block of logits has, the more of it stays in cache.


def to_softmax(b: Exponents) -> Softmax:
    """The softmax, its powers written over the exponents."""
    powers = b.values.exp2_()
    return Softmax(powers, powers.sum(-1))


def divergence(b_p: Exponents, b_q: Exponents) -> tuple[Tensor, Softmax, Softmax]:
    """KL(p || q) = ln 2 sum_k 2^{b_p} (b_p - b_q) / S_p + log (S_q / S_p), (N,), with p and q.

    Overwrites both; the powers of q take the place of its exponents.
    """
    powers = b_p.values.exp2()
    p = Softmax(powers, powers.sum(-1))
    apart_N = b_p.values.sub_(b_q.values).mul_(p.powers).sum(-1)
    q = to_softmax(b_q)
    return LN2 * apart_N / p.total + (q.total / p.total).log(), p, q


def cross_entropy(b_p: Exponents, b_q: Exponents) -> tuple[Tensor, Softmax, Softmax]:
    """-sum_k p_k log q_k = log S_q - ln 2 sum_k 2^{b_p} b_q / S_p, (N,), with p and q.

    Overwrites both; the powers take the place of the exponents.
    """
    p = to_softmax(b_p)
    within_N = (b_q.values * p.powers).sum(-1)
    q = to_softmax(b_q)
    return q.total.log() - LN2 * within_N / p.total, p, q


def difference(p: Softmax, weight_p: Tensor | float, q: Softmax, weight_q: float) -> Tensor:
    """weight_p p - weight_q q, (N, K), with weights (N,) or one for all rows. Takes the place of the powers of p."""
    scaled = p.powers.mul_((weight_p / p.total)[:, None])
    return scaled.addcmul_(q.powers, (-weight_q / q.total)[:, None])
