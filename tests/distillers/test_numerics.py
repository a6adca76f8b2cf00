"""Losses stay finite, keep a gradient and are computed in fp32, whatever the logits' size and type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import distillers
from distillers import Outputs, mlkd
from tests.distillers.batches import ON_LOGITS, random_batch, taught, used

METHODS = ON_LOGITS
CONVENTIONS = ["code", "paper"]


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def cast(views: dict[str, Outputs], dtype: torch.dtype) -> dict[str, Outputs]:
    return {
        view: seen.map_all(lambda x: x.detach().to(dtype).requires_grad_(x.requires_grad))
        for view, seen in views.items()
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits(name: str, convention: str, dtype: torch.dtype) -> None:
    distiller = distillers.create(name, convention=convention)
    student, teacher, target = random_batch(distiller, dtype=dtype, size=2000)
    losses = distiller.losses(student, teacher, target, 40)
    assert all(loss.isfinite() for loss in losses.values()), losses
    if distiller.needs_teacher:
        distilled = taught(lambda seen: distiller.losses(student, seen, target, 40), teacher)
        assert distilled != 0
        inputs = used(distiller, student)
        for gradient in torch.autograd.grad(distilled, inputs, allow_unused=True, materialize_grads=True):
            assert gradient.isfinite().all()
        losses = distiller.losses(student, teacher, target, 40)
    total(losses).backward()
    for tensor in used(distiller, student):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize("name", [name for name in METHODS if distillers.registry.get(name).needs_teacher])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_distillation_gradient_at_any_size(name: str, size: float) -> None:
    distiller = distillers.create(name)
    student, teacher, target = random_batch(distiller, dtype=torch.float32, size=2 * size)
    taught(lambda seen: distiller.losses(student, seen, target, 40), teacher).backward()
    source = [seen.regions if distiller.scales else seen.logits for seen in student.values()]
    for tensor in source:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


def test_dkd_keeps_tckd_where_probabilities_underflow() -> None:
    student = torch.tensor([[0.0, 5000.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[5000.0, 0.0, 0.0]])
    distiller = distillers.create("dkd", dkd={"beta": 0, "temperature": 1, "warmup_epochs": 0})
    none = student.new_zeros(1, 0, 3)
    loss = distiller.losses({"weak": Outputs(student, none)}, {"weak": Outputs(teacher, none)}, torch.tensor([0]), 1)[
        "kd"
    ]
    loss.backward()
    assert loss.item() == pytest.approx(5000.0)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_half_precision_is_computed_in_fp32(name: str, dtype: torch.dtype, convention: str) -> None:
    distiller = distillers.create(name, convention=convention)
    student, teacher, target = random_batch(distiller, dtype=dtype)
    exact = distiller.losses(cast(student, torch.float32), cast(teacher, torch.float32), target, 3)
    losses = distiller.losses(student, teacher, target, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = distiller.losses(student, teacher, target, 3)
    for term, value in exact.items():
        assert losses[term].dtype == mixed[term].dtype == torch.float32
        assert torch.equal(losses[term], value)
        assert torch.equal(mixed[term], value)
    total(losses).backward()
    assert all(tensor.grad is not None and tensor.grad.dtype == dtype for tensor in used(distiller, student))


@pytest.mark.parametrize("name", METHODS)
def test_double_stays_double(name: str) -> None:
    distiller = distillers.create(name)
    assert all(loss.dtype == torch.float64 for loss in distiller.losses(*random_batch(distiller), 1).values())


@pytest.mark.parametrize("name", [name for name in ON_LOGITS if name.startswith("sdd_")])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_one_scale_is_the_base_method_bit_for_bit(name: str, convention: str) -> None:
    decoupled = distillers.create(name, convention=convention, sdd={"scales": [1], "beta": 5})
    assert decoupled.base is not None
    assert decoupled.scales == ()
    own = {group: values for group, values in decoupled.parameters().items() if group != "sdd"}
    base = distillers.create(decoupled.base, **own)
    gradients = []
    for distiller in (decoupled, base):
        student, teacher, target = random_batch(distiller, dtype=torch.float32)
        losses = distiller.losses(student, teacher, target, 7)
        gradients.append([losses, torch.autograd.grad(total(losses), used(distiller, student))])
    assert gradients[0][0] == gradients[1][0]
    assert all(torch.equal(a, b) for a, b in zip(gradients[0][1], gradients[1][1], strict=True))


def test_the_class_relation_of_many_classes_is_the_same_without_their_matrix() -> None:
    """For 21,000 classes the matrices, and what autograd keeps of them, took 11.9 GB."""

    class Largest(TorchDispatchMode):
        """Remembers the largest tensor that is made."""

        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                self.numel = max(self.numel, made.numel())
            return made

    classes, rng = mlkd.MANY_CLASSES, torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, classes, generator=rng, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    with Largest() as largest:
        relation = mlkd.class_relation(student, teacher, 4.0)
        (gradient,) = torch.autograd.grad(relation.square().sum(), student)
    assert largest.numel == 3 * classes
    p_s, p_t = (logits.div(4.0).softmax(1) for logits in (student, teacher))
    expected = (p_t.T @ p_t - p_s.T @ p_s).square().sum(1)
    assert torch.allclose(relation, expected, rtol=1e-9, atol=0)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), student)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-6, atol=float(1e-9 * gradient.abs().max()))


@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-6])
def test_close_distributions_lose_no_digits(distance: float) -> None:
    """The difference of two products keeps few digits where they are close: 5% were wrong at the smallest distance."""
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(8, 50, generator=rng).softmax(1)
    b = (a.log() + distance * torch.randn(8, 50, generator=rng)).softmax(1)
    exact = (a.double().T @ a.double() - b.double().T @ b.double()).square().sum(1)
    assert torch.allclose(mlkd.gram_difference(a, b).double(), exact, rtol=1e-5, atol=0)
