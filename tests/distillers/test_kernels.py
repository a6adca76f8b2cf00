"""Losses with a gradient in closed form equal the same formulas in plain autograd, whatever the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import distillers
from distillers import kernels
from distillers.dkd import dkd
from distillers.kd import kd
from distillers.kernels import row_loss
from distillers.nkd import nkd

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_kd(s: Tensor, t: Tensor, y: Tensor, temperature: float) -> Tensor:
    log_s, log_t = (s / temperature).log_softmax(1), (t / temperature).log_softmax(1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1)


def without(z: Tensor, y: Tensor) -> Tensor:
    return z[~one_hot(y, z.shape[1]).bool()].view(len(z), -1)


def plain_dkd(s: Tensor, t: Tensor, y: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    s, t = s / temperature, t / temperature
    at = torch.arange(len(y)), y

    def binary(z: Tensor) -> Tensor:
        return torch.stack([z[at], without(z, y).logsumexp(1)], dim=1)

    return plain_kd(binary(s), binary(t), y, 1) * temperature**2 * alpha + (
        plain_kd(without(s, y), without(t, y), y, 1) * temperature**2 * beta
    )


def plain_nkd(s: Tensor, t: Tensor, y: Tensor, temperature: float, gamma: float, keep_target: bool) -> Tensor:
    at = torch.arange(len(y)), y
    own = t.softmax(1)[at] * s.log_softmax(1)[at]
    if not keep_target:
        s, t = without(s, y), without(t, y)
    cross = ((t / temperature).softmax(1) * (s / temperature).log_softmax(1)).sum(1)
    return -own - gamma * temperature**2 * cross


def loss_kd(s: Tensor, t: Tensor, y: Tensor, temperature: float) -> Tensor:
    return kd(s, t, temperature)


#: the loss, and its double in plain autograd
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "kd": (partial(loss_kd, temperature=4), partial(plain_kd, temperature=4)),
    "kd T=0.7": (partial(loss_kd, temperature=0.7), partial(plain_kd, temperature=0.7)),
}
for values in (
    {"temperature": 4.0, "alpha": 1.0, "beta": 8.0},
    {"temperature": 1.5, "alpha": 3.0, "beta": 0.0},
    {"temperature": 1.0, "alpha": 0.0, "beta": 2.0},
):
    LOSSES[f"dkd {values}"] = partial(dkd, **values), partial(plain_dkd, **values)
for temperature in (1.0, 4.0):
    for keep in (False, True):
        options = {"temperature": temperature, "gamma": 1.5, "keep_target": keep}
        LOSSES[f"nkd {options}"] = partial(nkd, **options), partial(plain_nkd, **options)

loss_and_double = pytest.mark.parametrize(("loss", "plain"), LOSSES.values(), ids=LOSSES)
each_loss = pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=LOSSES)


def logits(
    rows: int = 7, classes: int = 6, dtype: torch.dtype = torch.float64, size: float = 2.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Student (with gradient), teacher, target; every row weighs differently in `weighted`."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (size * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return s.to(dtype).requires_grad_(), t.to(dtype), torch.randint(classes, (rows,), generator=generator)


def weighted(loss_N: Tensor) -> Tensor:
    return (loss_N * torch.linspace(-1, 2, len(loss_N), dtype=loss_N.dtype)).sum()


def value_and_gradient(loss: Loss, s: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    loss_N = loss(s, t, y)
    return loss_N.detach(), torch.autograd.grad(weighted(loss_N), s)[0]


def relative(actual: Tensor, exact: Tensor) -> float:
    return ((actual.double() - exact).norm() / exact.norm()).item()


@pytest.fixture
def blocks_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr(kernels, "CPU_BLOCK", size)


@loss_and_double
@pytest.mark.parametrize("classes", [2, 6, 100])
def test_equals_plain_autograd(loss: Loss, plain: Loss, classes: int) -> None:
    batch = logits(40, classes)
    for actual, exact in zip(value_and_gradient(loss, *batch), value_and_gradient(plain, *batch), strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-11, atol=1e-14)


@loss_and_double
@pytest.mark.parametrize("size", [1.0, 4.0, 20.0])
def test_single_precision_keeps_its_digits(loss: Loss, plain: Loss, size: float) -> None:
    s, t, y = logits(200, 100, torch.float32, size)
    exact, exact_gradient = value_and_gradient(plain, s.detach().double().requires_grad_(), t.double(), y)
    loss_N, gradient_NK = value_and_gradient(loss, s, t, y)
    assert loss_N.dtype == gradient_NK.dtype == torch.float32
    assert relative(gradient_NK, exact_gradient) < 1e-6
    assert relative(loss_N.double().mean(), exact.mean()) < 1e-6
    # a row's small divergence is a difference of larger numbers, in the plain form as well
    assert relative(loss_N, exact) < max(1e-6, relative(plain(s, t, y).detach(), exact))


@each_loss
@pytest.mark.parametrize("block", [10**6, 13])  # all 7 rows of 6; 2, 2, 2 and 1
def test_gradcheck(loss: Loss, block: int, blocks_of: Callable[[int], None]) -> None:
    blocks_of(block)
    s, t, y = logits()
    assert torch.autograd.gradcheck(lambda x: loss(x, t, y), (s,))


@each_loss
@pytest.mark.parametrize("block", [1, 6, 18, 24, 41, 42])
def test_blocks_equal_the_whole(loss: Loss, block: int, blocks_of: Callable[[int], None]) -> None:
    s, t, y = batch = logits()
    whole = value_and_gradient(loss, *batch)
    blocks_of(block)
    for actual, expected in zip(value_and_gradient(loss, *batch), whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(loss(s, t, y), whole[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", [True, False])
def test_blocks_are_as_large_as_set(gradient: bool, blocks_of: Callable[[int], None]) -> None:
    seen: list[tuple[int, bool]] = []

    def loss(student_NK: Tensor, *constants: Tensor, gradient_NK: Tensor | None) -> Tensor:
        seen.append((len(student_NK), gradient_NK is not None))
        assert [len(x) for x in constants] == [len(student_NK)] * 2
        return student_NK.sum(1)

    blocks_of(20)
    s, t, y = logits()
    row_loss(loss, s.requires_grad_(gradient), t, y)
    assert seen == [(3, gradient), (3, gradient), (1, gradient)]


@each_loss
def test_without_gradient_the_value_is_the_same_and_nothing_is_kept(loss: Loss) -> None:
    s, t, y = logits()
    expected = loss(s, t, y)
    with torch.no_grad():
        inside = loss(s, t, y)
    for value in (inside, loss(s.detach(), t, y), loss(s.detach(), t.clone().requires_grad_(), y)):
        assert not value.requires_grad
        assert torch.equal(value, expected.detach())


@each_loss
def test_the_teacher_gets_no_gradient_and_inputs_stay(loss: Loss) -> None:
    s, t, y = logits()
    t.requires_grad_()
    before = [x.detach().clone() for x in (s, t, y)]
    weighted(loss(s, t, y)).backward()
    assert s.grad is not None and t.grad is None
    assert all(torch.equal(a, b) for a, b in zip((s.detach(), t.detach(), y), before, strict=True))


@each_loss
def test_losses_of_one_student_add_up(loss: Loss) -> None:
    """Also a second time through the same graph: the backward pass leaves what it saved as it was."""
    s, t, y = logits()
    teachers = [t, t.flip(0)]
    parts = [value_and_gradient(loss, s, each, y)[1] for each in teachers]
    total = 3 * weighted(loss(s, teachers[0], y)) + weighted(loss(2 * s - s, teachers[1], y))
    for passes in (1, 2):
        total.backward(retain_graph=True)
        torch.testing.assert_close(s.grad, passes * (3 * parts[0] + parts[1]), rtol=1e-12, atol=1e-12)


@loss_and_double
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2e3, 2e8])
def test_extreme_logits(loss: Loss, plain: Loss, dtype: torch.dtype, size: float) -> None:
    s, t, y = logits(200, 100, dtype, size)
    loss_N, gradient_NK = value_and_gradient(loss, s, t, y)
    exact = plain(s.detach().double(), t.double(), y)
    assert loss_N.isfinite().all() and gradient_NK.isfinite().all() and gradient_NK.any()
    assert relative(loss_N, exact) < 1e-6


@each_loss
def test_an_offset_of_the_logits_changes_nothing(loss: Loss) -> None:
    s, t, y = logits(dtype=torch.float32)
    s = (s.detach() * 64).round().div(64).requires_grad_()  # so that adding 4096 is exact
    for a, b in zip(
        value_and_gradient(loss, s, t, y),
        value_and_gradient(loss, (s.detach() + 4096).requires_grad_(), t, y),
        strict=True,
    ):
        assert relative(b, a.double()) < 2e-3


@loss_and_double
@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("at", ["target", "other"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(loss: Loss, plain: Loss, who: str, at: str, bad: float) -> None:
    s, t, y = logits(dtype=torch.float32)
    column = int(y[3]) if at == "target" else (int(y[3]) + 1) % 6
    with torch.no_grad():
        (s if who == "student" else t)[3, column] = bad
    loss_N, expected = loss(s, t, y).detach(), plain(s.detach(), t, y)
    assert torch.equal(loss_N.isfinite(), expected.isfinite())
    # a class that is impossible for the teacher leaves a cross-entropy finite
    assert not loss_N[3].isfinite() or (bad == -math.inf and who == "teacher")
    assert loss_N.isfinite().sum() >= 6


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_taken_in_single_precision(loss: Loss, dtype: torch.dtype) -> None:
    s, t, y = logits(dtype=dtype)
    loss_N, gradient_NK = value_and_gradient(loss, s, t, y)
    wide = value_and_gradient(loss, s.detach().float().requires_grad_(), t.float(), y)
    assert loss_N.dtype == torch.float32 and gradient_NK.dtype == dtype
    assert torch.equal(loss_N, wide[0]) and torch.equal(gradient_NK, wide[1].to(dtype))


@each_loss
def test_no_value_is_read(loss: Loss) -> None:
    """On tensors without values, where a host read or a shape that depends on one raises: fit for a CUDA graph."""
    s, t, y = (x.detach().to("meta") for x in logits())
    loss_N = loss(s.requires_grad_(), t, y)
    loss_N.sum().backward()
    assert loss_N.shape == (7,) and s.grad is not None and s.grad.shape == s.shape


@each_loss
def test_any_layout_will_do(loss: Loss) -> None:
    s, t, y = logits()
    expected = value_and_gradient(loss, s, t, y)
    turned = s.detach().T.contiguous().T.requires_grad_()
    for actual, whole in zip(value_and_gradient(loss, turned, t.T.contiguous().T, y), expected, strict=True):
        torch.testing.assert_close(actual, whole, rtol=1e-13, atol=1e-13)


def test_new_numbers_have_a_new_version() -> None:
    for name in ("kd", "dkd", "nkd", "mlkd"):
        for method in (name, f"sdd_{name}"):
            assert distillers.registry.get(method).numerics_version >= 2
