"""Losses per row with their gradient in closed form: one autograd node, no graph inside it, streamed over the rows.

Plain autograd keeps the intermediates of a loss until the backward pass and walks over all of them again. Here a loss
returns its value and its gradient at once, block by block, so that what lies between them never leaves the cache.
Nothing is read back from the device and no shape depends on a value: the node can be captured in a CUDA graph.

Shape letters: N rows, K classes.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: how many logits of one network a block holds. On a CPU (1 MB) little enough for a block with its temporaries to stay
#: in the cache, and enough for two threads; on other devices (50 MB) enough to keep them busy
CPU_BLOCK = 2**18
DEVICE_BLOCK = 50 * 2**18


class ValueAndGradient(Protocol):
    """A loss of every row, (N,), and its gradient with respect to the student's logits.

    The gradient is left in `gradient_NK`, which may serve as scratch before, unless that is None; nothing else that is
    given may be changed. No row may depend on another.
    """

    def __call__(self, student_NK: Tensor, *constants: Tensor, gradient_NK: Tensor | None) -> Tensor: ...


def row_loss(loss: ValueAndGradient, student_NK: Tensor, *constants: Tensor) -> Tensor:
    """The loss of every row, (N,), differentiable (once) with respect to the student's logits and nothing else.

    `constants` have N rows each: the teacher's logits, targets. Floating ones meet in one type, fp32 at least.
    """
    constants = tuple(constant.detach() for constant in constants)
    floating = [x.dtype for x in (student_NK, *constants) if x.is_floating_point()]
    dtype = reduce(torch.promote_types, floating, torch.float32)
    student_NK = student_NK.to(dtype)
    constants = tuple(x.to(dtype) if x.is_floating_point() else x for x in constants)
    if torch.is_grad_enabled() and student_NK.requires_grad:
        loss_N: Tensor = _RowLoss.apply(loss, student_NK, *constants)
        return loss_N
    return _by_blocks(loss, student_NK.detach(), *constants, gradient_NK=None)


class _RowLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: ValueAndGradient, student_NK: Tensor, *constants: Tensor) -> Tensor:
        gradient_NK = torch.empty_like(student_NK)
        loss_N = _by_blocks(loss, student_NK, *constants, gradient_NK=gradient_NK)
        ctx.save_for_backward(gradient_NK)
        ctx.no_gradients = [None] * len(constants)
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NK,) = ctx.saved_tensors
        return None, grad_N[:, None] * gradient_NK, *ctx.no_gradients


def _by_blocks(loss: ValueAndGradient, student_NK: Tensor, *constants: Tensor, gradient_NK: Tensor | None) -> Tensor:
    num_rows, num_classes = student_NK.shape
    step = max(1, (CPU_BLOCK if student_NK.device.type == "cpu" else DEVICE_BLOCK) // num_classes)
    if num_rows <= step:
        return loss(student_NK, *constants, gradient_NK=gradient_NK)
    loss_N = student_NK.new_empty(num_rows)
    for first in range(0, num_rows, step):
        rows = slice(first, first + step)
        part_NK = None if gradient_NK is None else gradient_NK[rows]
        loss_N[rows] = loss(student_NK[rows], *(x[rows] for x in constants), gradient_NK=part_NK)
    return loss_N
