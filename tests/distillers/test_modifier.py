"""A modifier changes the per-sample terms of a method and nothing else, alone and under scale decoupling."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import distillers
from distillers import registry
from distillers.base import LogitDistiller, Outputs, Parameters, PerSample, Positive
from distillers.dkd import DKD
from distillers.kd import KD, kd
from distillers.loss_modifier import LossModifier, loss_modifier
from distillers.mlkd import MLKD
from distillers.nkd import NKD
from tests.distillers.batches import random_batch

FORMS = ["scaled_dkd", "scaled_kd", "scaled_mlkd", "scaled_nkd"]


@pytest.fixture(autouse=True)
def scaled() -> Iterator[None]:
    before = set(registry)

    @loss_modifier(
        "scaled",
        "{}x",
        of={KD: {"temperature": 2, "weight": 9}, DKD: {}, NKD: {"gamma": 3}, MLKD: {}},
        numerics_version=2,
    )
    class Scaled(LossModifier):
        """Divides each row of logits by its largest, in size."""

        floor: Positive = 0.5

        def modified(self, loss: PerSample) -> PerSample:
            def scale(logits_NK: Tensor) -> Tensor:
                return logits_NK / logits_NK.abs().amax(1, keepdim=True).clamp(min=self.floor)

            return lambda student_NK, teacher_NK, target_N: loss(scale(student_NK), scale(teacher_NK), target_N)

    yield
    for name in set(registry) - before:
        registry.remove(name)


def scale(logits: Tensor) -> Tensor:
    return logits / logits.abs().amax(-1, keepdim=True).clamp(min=0.5)


def scaled_outputs(views: dict[str, Outputs], whole: bool) -> dict[str, Outputs]:
    """The views with regions scaled, and the whole image's logits too where `whole`."""
    return {
        view: Outputs(scale(seen.logits) if whole else seen.logits, scale(seen.regions)) for view, seen in views.items()
    }


def test_forms_are_registered_with_their_scale_decoupled_forms() -> None:
    assert distillers.names("*scaled_*") == [*FORMS, *(f"sdd_{name}" for name in FORMS)]
    form, decoupled = registry.get("scaled_dkd"), registry.get("sdd_scaled_dkd")
    assert (form.title, form.base) == ("DKDx", "dkd")
    assert (decoupled.title, decoupled.base) == ("SD-DKDx", "scaled_dkd")
    assert list(distillers.groups("sdd_scaled_dkd")) == ["dkd", "scaled", "sdd"]
    own = registry.get("dkd").numerics_version
    assert form.numerics_version == decoupled.numerics_version == own + 1
    assert "`scaled`" in (form.__doc__ or "") and "largest, in size" in (form.__doc__ or "")


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_values_under_the_modifier_are_set_field_by_field(convention: str) -> None:
    assert distillers.create("scaled_kd", convention=convention).parameters() == {
        "kd": {"temperature": 2, "weight": 9, "ce_weight": 0.1, "warmup_epochs": 0}, "scaled": {"floor": 0.5}
    }  # fmt: skip
    decoupled = distillers.create("sdd_scaled_nkd", convention=convention, scaled={"floor": 2}).parameters()
    plain = distillers.create("sdd_nkd", convention=convention).parameters()
    assert decoupled == {"nkd": {**plain["nkd"], "gamma": 3}, "scaled": {"floor": 2}, "sdd": plain["sdd"]}
    assert (
        distillers.create("scaled_mlkd", convention=convention).parameters()["mlkd"]
        == (distillers.create("mlkd", convention=convention).parameters()["mlkd"])
    )


def test_the_loss_per_sample_is_the_modified_one_and_cross_entropy_is_not() -> None:
    form = distillers.create("scaled_kd")
    student, teacher, target = random_batch(form)
    losses = form.losses(student, teacher, target, 1)
    s, t = student["weak"].logits, teacher["weak"].logits
    assert torch.equal(losses["kd"], 9 * kd(scale(s), scale(t), 2).mean())
    assert torch.equal(losses["ce"], 0.1 * cross_entropy(s, target))


@pytest.mark.parametrize("base", ["kd", "dkd", "nkd"])
def test_every_region_is_modified_by_itself(base: str) -> None:
    form = distillers.create(f"sdd_scaled_{base}")
    plain = distillers.create(f"sdd_{base}", **{base: form.parameters()[base]})
    student, teacher, target = random_batch(form)
    expected = plain.losses(scaled_outputs(student, False), scaled_outputs(teacher, False), target, 30)
    assert form.losses(student, teacher, target, 30) == expected
    assert form.diagnostics(student, teacher, target) == plain.diagnostics(student, teacher, target)


def test_terms_over_the_batch_are_left_alone() -> None:
    form, plain = distillers.create("scaled_mlkd"), distillers.create("mlkd")
    batch = random_batch(form)
    losses, before = form.losses(*batch, 1), plain.losses(*batch, 1)
    assert losses["kd"] != before["kd"]
    assert all(losses[term] == before[term] for term in ("ce", "class", "batch"))


@pytest.mark.parametrize("name", [*FORMS, *(f"sdd_{name}" for name in FORMS)])
def test_a_form_is_a_distiller_like_any_other(name: str) -> None:
    form = distillers.create(name)
    assert isinstance(form, LogitDistiller)
    assert distillers.create(name, **form.parameters()).parameters() == form.parameters()
    student, teacher, target = random_batch(form, dtype=torch.float32)
    torch.stack(list(form.losses(student, teacher, target, 5).values())).sum().backward()
    for seen in student.values():
        for tensor in (seen.logits, seen.regions):
            assert not tensor.numel() or (tensor.grad is not None and tensor.grad.isfinite().all())


def test_a_method_that_is_not_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="Parameters is not the hyperparameters of a registered method"):
        loss_modifier("other", "{}", of={Parameters: {}})(LossModifier)
