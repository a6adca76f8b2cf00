"""The losses of KD, DKD and NKD with their gradient in closed form: one autograd node, streamed over the rows.

Plain autograd keeps the intermediates of a loss until the backward pass and walks over all of them again. Here a loss
returns its value and its gradient at once, block by block, so that the intermediates never leave the cache.
Nothing is read back from the device and no shape depends on a value: the node can be captured in a CUDA graph.
The formulas are in the methods' files (`kd`, `dkd`, `nkd`); a new loss needs none of this and may use plain autograd.

Shape letters: N rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from distillers.logspace import at_target

LN2 = math.log(2)

#: number of logits of one network per block. On a CPU (1 MB): few enough for a block and its temporaries to stay in the
#: cache, and enough for two threads. On other devices (50 MB): enough to keep them busy
CPU_BLOCK = 2**18
DEVICE_BLOCK = 50 * 2**18


#: `kernel(student_NK, *constants, gradient_NK=..., **hyperparameters)` returns the loss of every row, (N,), and writes
#: its gradient with respect to the student's logits to `gradient_NK`, unless that is None; it may use `gradient_NK` as
#: scratch before. It must not change its other arguments, and no row may depend on another.
Kernel = Callable[..., Tensor]


def row_loss(kernel: Kernel, student_NK: Tensor, *constants: Tensor, **hyperparameters: float) -> Tensor:
    """Compute the loss of every row, (N,), differentiable (once) with respect to the student's logits only.

    `constants` have N rows each: the teacher's logits, targets. Floating-point inputs are promoted to one type,
    fp32 at least.
    """
    loss = partial(kernel, **hyperparameters)
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
    def forward(ctx: Any, loss: Kernel, student_NK: Tensor, *constants: Tensor) -> Tensor:
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


def _by_blocks(loss: Kernel, student_NK: Tensor, *constants: Tensor, gradient_NK: Tensor | None) -> Tensor:
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


def kd(student_NK: Tensor, teacher_NK: Tensor, *, temperature: float, gradient_NK: Tensor | None) -> Tensor:
    """KD: the loss T^2 KL(p_t || p_s), (N,), and its gradient T (p_s - p_t), (N, K)."""
    student, teacher = exponents(student_NK, temperature, out_NK=gradient_NK), exponents(teacher_NK, temperature)
    divergence_N, p_t, p_s = divergence(teacher, student)
    if gradient_NK is not None:  # it holds p_s
        difference(p_s, temperature, p_t, temperature)
    return temperature**2 * divergence_N


def dkd(
    student_NK: Tensor,
    teacher_NK: Tensor,
    target_N: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    gradient_NK: Tensor | None,
) -> Tensor:
    """DKD: the loss and its gradient, T alpha d at the target and T (beta (q_s - q_t) - alpha d q_s) at other classes.

    q is the softmax over the other classes, d = p_s(y) - p_t(y), and p_y = sigmoid(m) of the margin
    m = z_y / T - log sum_{k != y} exp(z_k / T), whose gradient is 1 / T at the target and -q / T at the others. TCKD's
    derivative with respect to m_s is d; NCKD does not depend on z_y.
    """
    student = exponents(student_NK, temperature, target_N, out_NK=gradient_NK)
    teacher = exponents(teacher_NK, temperature, target_N)
    nckd_N, q_t, q_s = divergence(teacher, student)
    # the remaining tensors are small: one operator serves both networks, since launching it costs more than its work
    logit_2N = torch.stack([at_target(student_NK, target_N), at_target(teacher_NK, target_N)])
    largest_2N = torch.stack([student.largest, teacher.largest])
    margin_2N = margin(logit_2N, largest_2N, torch.stack([q_s.total, q_t.total]), temperature)
    # p_y and 1 - p_y each come from a sigmoid: both keep their digits however close to 0 or 1 they are
    log_s, log_t = logsigmoid(torch.stack([margin_2N, -margin_2N], dim=1))
    p_t = log_t.exp()
    tckd_N = (log_t - log_s).mul_(p_t).sum(0)
    if gradient_NK is not None:  # it holds q_s
        p_s = log_s.exp()
        at_target_N = (p_s[0] * p_t[1] - p_s[1] * p_t[0]).mul_(alpha * temperature)
        difference(q_s, beta * temperature - at_target_N, q_t, beta * temperature)
        gradient_NK.scatter_(1, target_N[:, None], at_target_N[:, None])
    return nckd_N.mul_(beta).add_(tckd_N, alpha=alpha).mul_(temperature**2)


def nkd(
    student_NK: Tensor,
    teacher_NK: Tensor,
    target_N: Tensor,
    *,
    temperature: float,
    gamma: float,
    keep_target: bool,
    gradient_NK: Tensor | None,
) -> Tensor:
    """NKD: the loss and its gradient p_t(y) (p_s - 1_y) + gamma T (q_s - q_t), where 1_y is 1 at the target, else 0."""
    removed_N = None if keep_target else target_N
    student = exponents(student_NK, temperature, removed_N, out_NK=gradient_NK)
    cross_N, q_t, q_s = cross_entropy(exponents(teacher_NK, temperature, removed_N), student)
    if gradient_NK is not None:  # it holds q_s
        difference(q_s, gamma * temperature, q_t, gamma * temperature)

    p_t = to_softmax(exponents(teacher_NK, 1))
    p_t_N = at_target(p_t.powers, target_N) / p_t.total
    whole = exponents(student_NK, 1)
    exponent_N = at_target(whole.values, target_N)
    p_s = to_softmax(whole)
    if gradient_NK is not None:
        gradient_NK.addcmul_(p_s.powers, (p_t_N / p_s.total)[:, None])
        gradient_NK.scatter_add_(1, target_N[:, None], -p_t_N[:, None])
    return gamma * temperature**2 * cross_N - p_t_N * (LN2 * exponent_N - p_s.total.log())


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
    """A softmax 2^b / S, kept as its two parts."""

    #: 2^b, (N, K)
    powers: Tensor
    #: S, (N,)
    total: Tensor


def _scale(temperature: float) -> float:
    return 1 / (temperature * LN2)


def exponents(
    logits_NK: Tensor, temperature: float, without_N: Tensor | None = None, out_NK: Tensor | None = None
) -> Exponents:
    """Compute exponents over all classes, or over all but each row's class `without_N`; in `out_NK` if it is given.

    The class left out gets a finite exponent whose power is 0, the same for all logits.
    """
    values = torch.mul(logits_NK, _scale(temperature), out=out_NK)
    if without_N is not None:
        # not -inf, since 0 * -inf is NaN; a quarter of the minimum, so that subtracting the maximum cannot overflow
        values.scatter_(1, without_N[:, None], torch.finfo(values.dtype).min / 4)
    largest = values.amax(-1, keepdim=True)
    return Exponents(values.sub_(largest), largest[:, 0])


def margin(logit_N: Tensor, largest_N: Tensor, total_N: Tensor, temperature: float) -> Tensor:
    """Log-odds log(p / (1 - p)) of a class, (N,), from its logit and the other classes' largest exponent and S."""
    # rounded in the same way as the exponents, so that shared terms cancel
    return (logit_N * _scale(temperature)).sub_(largest_N).sub_(total_N.log2()).mul_(LN2)


# The functions below overwrite their inputs: the fewer temporaries a block of logits has, the more stays in the cache.


def to_softmax(b: Exponents) -> Softmax:
    """Compute the softmax from exponents; its powers overwrite them."""
    powers = b.values.exp2_()
    return Softmax(powers, powers.sum(-1))


def divergence(b_p: Exponents, b_q: Exponents) -> tuple[Tensor, Softmax, Softmax]:
    """KL(p || q) = ln 2 sum_k 2^{b_p} (b_p - b_q) / S_p + log (S_q / S_p), (N,), with p and q.

    Overwrites both inputs; the powers of q take the place of its exponents.
    """
    powers = b_p.values.exp2()
    p = Softmax(powers, powers.sum(-1))
    apart_N = b_p.values.sub_(b_q.values).mul_(p.powers).sum(-1)
    q = to_softmax(b_q)
    return LN2 * apart_N / p.total + (q.total / p.total).log(), p, q


def cross_entropy(b_p: Exponents, b_q: Exponents) -> tuple[Tensor, Softmax, Softmax]:
    """-sum_k p_k log q_k = log S_q - ln 2 sum_k 2^{b_p} b_q / S_p, (N,), with p and q.

    Overwrites both inputs; the powers take the place of the exponents.
    """
    p = to_softmax(b_p)
    within_N = (b_q.values * p.powers).sum(-1)
    q = to_softmax(b_q)
    return q.total.log() - LN2 * within_N / p.total, p, q


def difference(p: Softmax, weight_p: Tensor | float, q: Softmax, weight_q: float) -> Tensor:
    """Weighted difference weight_p p - weight_q q, (N, K); weight_p is (N,) or a scalar. Overwrites the powers of p."""
    scaled = p.powers.mul_((weight_p / p.total)[:, None])
    return scaled.addcmul_(q.powers, (-weight_q / q.total)[:, None])
