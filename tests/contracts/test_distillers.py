"""What every registered distiller promises; a new one is under test as soon as its file exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import cross_entropy

import distillers
from benchmark.datasets import views
from distillers import Distiller, Outputs, registry
from distillers.base import LogitDistiller, Positive, Views
from distillers.sample_loss import SampleLoss, sample_loss
from distillers.sdd import ScaleDecoupled, register_with_sdd
from tests.distillers.batches import ON_LOGITS, random_batch

METHODS = distillers.names()


@pytest.fixture(params=ON_LOGITS)
def distiller(request: pytest.FixtureRequest) -> Distiller:
    return distillers.create(request.param)


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("name", METHODS)
def test_is_described(name: str) -> None:
    distiller = distillers.create(name)
    assert distiller.title
    assert type(distiller).__doc__
    assert distiller.numerics_version >= 1
    assert registry.get(distiller.name) is type(distiller)
    assert distiller.base is None or (distiller.base in registry and distiller.base != distiller.name)
    assert [name for name in METHODS if registry.get(name).title == distiller.title] == [distiller.name]
    assert list(distiller.scales) == sorted(distiller.scales)
    assert set(distiller.parameters()) == set(distillers.groups(distiller.name))
    views.check(distiller.name, distiller.views)


def test_a_scale_decoupled_form_is_its_methods(distiller: Distiller) -> None:
    if f"sdd_{distiller.name}" in registry:
        decoupled = distillers.create(f"sdd_{distiller.name}")
        assert decoupled.base == distiller.name
        assert decoupled.title == f"SD-{distiller.title}"
        assert decoupled.scales == (1, 2, 4)
        assert decoupled.views == distiller.views


def check_gradients(distiller: Distiller, student: dict[str, Outputs]) -> None:
    """Every view is used, in whole images or in regions, and regions where there are any; gradients are finite."""
    seen = {view: (student[view].logits, student[view].regions) for view in distiller.views}
    reached = {view: [x.grad is not None and bool(x.grad.any()) for x in tensors] for view, tensors in seen.items()}
    for view in distiller.views:
        for tensor in seen[view]:
            assert tensor.grad is None or tensor.grad.isfinite().all(), (
                f"{distiller.name}: a gradient of the view '{view}' is not finite"
            )
        assert any(reached[view]), (
            f"{distiller.name}: the loss has no gradient for the view '{view}': use it, or leave it out of `views`"
        )
    if distiller.scales:
        assert any(regions for _, regions in reached.values()), (
            f"{distiller.name}: the loss has no gradient for the regions of any view, which `scales` asks for"
        )


@pytest.mark.parametrize("epoch", [1, 100])
def test_losses_train_the_student_only(distiller: Distiller, epoch: int) -> None:
    student, teacher, target = random_batch(distiller)
    for seen in teacher.values():
        for tensor in (seen.logits, seen.regions):
            tensor.requires_grad_(True)
    losses = distiller.losses(student, teacher, target, epoch)
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    total(losses).backward()
    check_gradients(distiller, student)
    assert all(tensor.grad is None for seen in teacher.values() for tensor in (seen.logits, seen.regions))


def test_losses_are_deterministic_and_leave_inputs_alone(distiller: Distiller) -> None:
    student, teacher, target = random_batch(distiller)
    before = [
        tensor.clone() for seen in (*student.values(), *teacher.values()) for tensor in (seen.logits, seen.regions)
    ]
    first, second = (distiller.losses(student, teacher, target, 2) for _ in range(2))
    assert first == second
    after = [tensor for seen in (*student.values(), *teacher.values()) for tensor in (seen.logits, seen.regions)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_epoch_may_be_a_tensor(distiller: Distiller) -> None:
    batch = random_batch(distiller)
    for epoch in (1, 15, 200):
        plain, inside_a_graph = (distiller.losses(*batch, e) for e in (epoch, torch.tensor(float(epoch))))
        for term in plain:
            torch.testing.assert_close(plain[term], inside_a_graph[term], rtol=1e-6, atol=0)


def test_teacher_may_be_absent_where_none_is_needed(distiller: Distiller) -> None:
    if not distiller.needs_teacher:
        student, _, target = random_batch(distiller)
        assert total(distiller.losses(student, {}, target, 1)).isfinite()


def test_diagnostics_are_scalars(distiller: Distiller) -> None:
    found = distiller.diagnostics(*random_batch(distiller))
    assert all(value.shape == () and value.isfinite() for value in found.values())
    if isinstance(distiller, ScaleDecoupled):
        assert ("complementary_fraction" in found) == bool(distiller.scales)


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("name", ON_LOGITS)
def test_parameters_make_the_same_distiller(name: str, convention: str) -> None:
    first = distillers.create(name, convention=convention)
    parameters = json.loads(json.dumps(first.parameters()))
    second = distillers.create(name, **parameters)
    assert first.parameters() == second.parameters() == parameters
    assert (first.scales, first.grids, first.views) == (second.scales, second.grids, second.views)
    batch = random_batch(first)
    assert first.losses(*batch, 3) == second.losses(*batch, 3)


class OnTwoViews(LogitDistiller):
    """Cross-entropy on the weak view, distillation on the strong one; no hyperparameter, so no warm-up either."""

    name, title = "on_two_views", "On two views"
    views = ("weak", "strong")

    def terms(
        self, student: Views, teacher: Views, target_B: torch.Tensor, epoch: int | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        def distance(student_NK: torch.Tensor, teacher_NK: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return (student_NK - teacher_NK).square().mean(-1)

        kd_B = self.instance(distance, student["strong"], teacher["strong"], target_B)
        return {"ce": cross_entropy(student["weak"].logits, target_B), "kd": kd_B.mean()}


class OnOneOfTwo(OnTwoViews):
    """Asks for a view that it does not look at."""

    def terms(
        self, student: Views, teacher: Views, target_B: torch.Tensor, epoch: int | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {"ce": cross_entropy(student["weak"].logits, target_B)}


@pytest.fixture
def on_two_views() -> Iterator[None]:
    register_with_sdd(OnTwoViews)
    yield
    for name in ("on_two_views", "sdd_on_two_views"):
        registry.remove(name)


@pytest.mark.parametrize("name", ["on_two_views", "sdd_on_two_views"])
def test_a_view_may_serve_one_term_only(on_two_views: None, name: str) -> None:
    distiller = distillers.create(name)
    student, teacher, target = random_batch(distiller)
    total(distiller.losses(student, teacher, target, 1)).backward()
    check_gradients(distiller, student)


def test_a_view_that_is_not_used_is_named() -> None:
    distiller = OnOneOfTwo()
    student, teacher, target = random_batch(distiller)
    total(distiller.losses(student, teacher, target, 1)).backward()
    with pytest.raises(AssertionError, match="on_two_views: the loss has no gradient for the view 'strong'"):
        check_gradients(distiller, student)


def test_a_method_may_have_no_warm_up(on_two_views: None) -> None:
    found = distillers.create("sdd_on_two_views", convention="paper").parameters()
    assert found == {"sdd": distillers.create("sdd_kd", convention="paper").parameters()["sdd"]}


@pytest.fixture
def mine() -> Iterator[str]:
    @sample_loss("mine", title="Mine", base="kd", numerics_version=3)
    class Mine(SampleLoss):
        """Squared distance of the logits."""

        temperature: Positive = 2.0

        def per_sample(
            self, student_NK: torch.Tensor, teacher_NK: torch.Tensor, target_N: torch.Tensor
        ) -> torch.Tensor:
            return ((student_NK - teacher_NK) / self.temperature).square().mean(-1)

    yield "mine"
    for name in ("mine", "sdd_mine"):
        registry.remove(name)


def test_a_new_sample_loss_comes_with_its_scale_decoupled_form(mine: str) -> None:
    assert distillers.names("*mine") == ["mine", "sdd_mine"]
    base = distillers.create("mine", mine={"weight": 3, "warmup_epochs": 4})
    decoupled = distillers.create("sdd_mine", mine={"weight": 3, "warmup_epochs": 4}, sdd={"beta": 1})
    assert (base.title, decoupled.title) == ("Mine", "SD-Mine")
    assert (base.base, decoupled.base, distillers.create("nkd").base) == ("kd", "mine", None)
    assert base.numerics_version == decoupled.numerics_version == 3
    assert distillers.create("sdd_mine", convention="paper").parameters()["mine"]["warmup_epochs"] == 30
    student, teacher, target = random_batch(decoupled)
    seen, taught = student["weak"], teacher["weak"]
    for distiller, s, t in ((base, seen.logits, taught.logits), (decoupled, seen.regions, taught.regions)):
        expected = 3 * 0.25 * ((s - t) / 2).square().mean()
        torch.testing.assert_close(distiller.losses(student, teacher, target, 1)["kd"], expected)


class MeanOfBatch(SampleLoss):
    """A mean where a loss per row belongs."""

    def per_sample(self, student_NK: torch.Tensor, teacher_NK: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        return (student_NK - teacher_NK).square().mean()


@pytest.mark.parametrize(("form", "rows"), [("mean_of_batch", 6), ("sdd_mean_of_batch", 6 * 21)])
def test_a_mean_is_no_loss_per_sample(form: str, rows: int) -> None:
    sample_loss("mean_of_batch", title="Mean of the batch")(MeanOfBatch)
    try:
        distiller = distillers.create(form)
        expected = f"{form}: per_sample returned shape (), expected ({rows},): one loss per row, no mean"
        with pytest.raises(ValueError, match=re.escape(expected)):
            distiller.losses(*random_batch(distiller), 1)
    finally:
        for name in ("mean_of_batch", "sdd_mean_of_batch"):
            registry.remove(name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 4.0, "JS.temperature: give it a type, e.g. `temperature: Positive = 4.0`"),
        ("weight", 2, "JS.weight: give it a type, e.g. `weight: Positive = 2`"),
        ("scales_of", (1, 2), "JS.scales_of: give it a type, e.g. `scales_of: tuple[float, ...] = (1, 2)`"),
        ("keep", True, "JS.keep: give it a type, e.g. `keep: bool = True`"),
        ("views", ("weak", "strong"), "JS.views: belongs to a distiller, not to its hyperparameters"),
    ],
)
def test_a_hyperparameter_without_a_type_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        type("JS", (SampleLoss,), {field: value})


def test_a_taken_name_is_refused(mine: str) -> None:
    with pytest.raises(ValueError, match="registered twice"):
        sample_loss("mine", title="Other")(type("Other", (SampleLoss,), {}))
