"""A method as a callable: the harness's loss, from logits, or from feature maps with their heads."""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import distillers
import models
from benchmark.errors import UserError
from benchmark.train.heads import network_outputs
from benchmark.train.lane import Lane
from tests.conftest import make_config
from tests.distillers.batches import ON_LOGITS

BATCH, CLASSES, SIDE = 8, 10, 16
TARGET = torch.arange(BATCH) % CLASSES


def logits(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed))


def of_map(network: models.Network, x_BCHW: Tensor) -> tuple[Tensor, models.Network]:
    return network.forward_features(x_BCHW), network


@pytest.mark.parametrize("method", ON_LOGITS)
def test_it_is_the_harness_loss_bit_for_bit(method: str) -> None:
    """Of one step of a lane, whose history holds the mean over a batch of a power of two: no rounding."""
    lane = Lane(make_config(method), CLASSES, SIDE, torch.device("cpu"))
    student, teacher = copy.deepcopy(lane.network), models.create("resnet8", CLASSES, SIDE).eval()
    views = {view: torch.randn(BATCH, 3, SIDE, SIDE) for view in lane.distiller.views}
    with torch.no_grad():
        shown = {
            request: network_outputs(teacher, views[request.view], [request])[request] for request in lane.requests
        }
    lane.start_epoch(3)
    lane.step(views, TARGET, shown)
    lane.finish_epoch(3)
    (row,) = lane.history

    loss, student = distillers.loss(method), student.train()
    seen = {view: of_map(student, x_BCHW) for view, x_BCHW in views.items()}
    told = {view: of_map(teacher, x_BCHW) for view, x_BCHW in views.items()}
    terms = loss.terms(seen, told, TARGET, epoch=3)
    assert {f"train/loss_{name}": value.item() for name, value in terms.items()} == {
        name: value for name, value in row.items() if name.startswith("train/loss_")
    }
    assert loss(seen, told, TARGET, epoch=3).item() == row.get("train/loss", row["train/loss_ce"])
    if not lane.distiller.scales and len(views) == 1:
        assert torch.equal(
            loss(student(views["weak"]), teacher(views["weak"]), TARGET, epoch=3), loss(seen, told, TARGET, epoch=3)
        )


def test_gradients_reach_the_student_only() -> None:
    student, teacher = (models.create("resnet8_half", CLASSES, SIDE) for _ in range(2))
    x_BCHW = torch.randn(BATCH, 3, SIDE, SIDE)
    distillers.loss("sdd_kd")(of_map(student, x_BCHW), of_map(teacher, x_BCHW), TARGET).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_head_may_be_a_layer_a_network_or_a_function() -> None:
    model = torchvision.models.resnet18(num_classes=CLASSES).eval()
    network = distillers.adapt(model, image_size=96)
    x_BCHW, loss = torch.randn(BATCH, 3, 96, 96), distillers.loss("sdd_kd", scales=(1, 2))
    assert torch.equal(network(x_BCHW), model(x_BCHW))
    map_BDHW = network.forward_features(x_BCHW)
    teacher = map_BDHW.roll(1, 0), model.fc
    expected = loss((map_BDHW, network), teacher, TARGET)
    assert torch.equal(loss((map_BDHW, model.fc), teacher, TARGET), expected)
    # a function is not known to be affine, so that the map is pooled first: another order of the same sums
    as_function = loss((map_BDHW, lambda pooled_D: model.fc(pooled_D)), teacher, TARGET)
    torch.testing.assert_close(as_function, expected, rtol=1e-5, atol=0)


def test_an_adapted_model_shares_its_layers() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=CLASSES, in_chans=1)
    network = distillers.adapt(model, image_size=64)
    assert {id(one) for one in network.parameters()} == {id(one) for one in model.parameters()}
    assert distillers.adapt(network) is network


def test_hyperparameters_are_given_plainly_or_by_group() -> None:
    loss = distillers.loss("sdd_dkd", scales=(1, 2), alpha=0.5, dkd={"beta": 6}, sdd={"beta": 3})
    created = distillers.create("sdd_dkd", dkd={"alpha": 0.5, "beta": 6}, sdd={"scales": (1, 2), "beta": 3})
    assert loss.distiller.parameters() == created.parameters()
    assert distillers.loss("sdd_kd", convention="paper").distiller.parameters()["sdd"]["reduction"] == "sum"
    assert "dkd.beta=6.0" in repr(loss)


@pytest.mark.parametrize(
    ("method", "given", "refusal"),
    [
        ("kdd", {}, "unknown distiller 'kdd'; did you mean 'kd'?"),
        ("sdd_kd", {"scale": (1, 2)}, "scale: no hyperparameter of sdd_kd; did you mean 'scales'?"),
        ("vanilla", {"beta": 1}, "beta: no hyperparameter of vanilla; it has none"),
        ("sdd_dkd", {"beta": 1}, 'beta: dkd and sdd of sdd_dkd both have it; give dkd={"beta": ...} or sdd='),
        ("sdd_kd", {"beta": 1, "sdd": {"beta": 2}}, "sdd.beta: given twice"),
        ("kd", {"kd": 4}, "kd: a group of kd; give its fields by name, kd={...}"),
        ("kd", {"kd": {"tau": 4}}, "kd.tau: unknown"),
        ("kd", {"temperature": 0}, "kd.temperature: must be greater than 0, got 0"),
    ],
)
def test_wrong_hyperparameters_are_refused(method: str, given: dict[str, Any], refusal: str) -> None:
    with pytest.raises(UserError, match=re.escape(refusal)):
        distillers.loss(method, **given)


MAP = torch.randn(BATCH, 6, 4, 4)


@pytest.mark.parametrize(
    ("method", "student", "teacher", "refusal"),
    [
        (
            "sdd_kd",
            logits(),
            logits(),
            r"give the student's feature map before pooling and its head, \(map, head\), or",
        ),
        ("sdd_kd", (MAP, nn.Linear(6, CLASSES)), logits(), "give the teacher's feature map .* take 'kd'"),
        ("sdd_kd", (MAP.mean((2, 3)), nn.Linear(6, CLASSES)), None, r"shape \(8, 6\), it must be \(B, D, H, W\)"),
        ("sdd_kd", (MAP, nn.Linear(5, CLASSES)), logits(), "takes 5 channels and its feature map has 6"),
        ("sdd_kd", (MAP, nn.Flatten()), logits(), r"head must turn \(\.\.\., 6\) into \(\.\.\., K\)"),
        ("kd", logits(), None, "kd learns from a teacher"),
        ("kd", logits(), logits()[:, :5], r"teacher's logits of the view 'weak' have shape \(8, 5\), .* \(8, 10\)"),
        ("kd", logits()[:4], logits()[:4], r"target: must be class indices of shape \(4,\), got torch.int64 of"),
        ("mlkd", logits(), logits(), 'student\'s \'strong\' is missing; give {"weak": ..., "strong": ...}'),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(method: str, student: Any, teacher: Any, refusal: str) -> None:
    with pytest.raises(UserError, match=refusal):
        distillers.loss(method)(student, teacher, TARGET)


HEADLESS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
MAX_POOLED = nn.Sequential(
    OrderedDict(
        conv=nn.Conv2d(3, 4, 3), avgpool=nn.AdaptiveMaxPool2d(1), fc=nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    )
)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(HEADLESS, "has no layer fc, classifier, head or heads"), (MAX_POOLED, "does not classify the mean of its")],
)
def test_a_model_without_a_map_is_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=f"model 'Sequential' {reason}.*; give the loss a feature map and a head"):
        distillers.adapt(model, image_size=16)


def test_an_epoch_that_decides_the_loss_is_asked_for() -> None:
    """Without it SLD would be in its second phase from the first step on."""
    views = {"weak": logits(), "strong": logits(2)}
    loss = distillers.loss("sld", own_after=2)
    with pytest.raises(UserError, match="sld changes its loss in the course of training: give epoch=1, 2"):
        loss(views, views, TARGET)
    assert distillers.registry.get("sdd_sld").needs_epoch
    assert loss.terms(views, views, TARGET, epoch=2)["own"] == 0
    assert loss.terms(views, views, TARGET, epoch=3)["own"] != 0
    with pytest.raises(UserError, match="epoch counts from 1: 0 is before"):
        distillers.loss("dkd")(logits(), logits(1), TARGET, epoch=0)


def test_without_an_epoch_there_is_no_warmup_and_one_warning() -> None:
    loss, full = distillers.loss("dkd"), distillers.loss("dkd", warmup_epochs=0)
    given = logits(), logits(1), TARGET
    with pytest.warns(UserWarning, match="dkd warms up over 20 epochs: give epoch=1, 2") as warned:
        assert torch.equal(loss(*given), full(*given))
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(*given)
        full(*given)
        distillers.loss("kd")(*given)
        assert loss(*given, epoch=1) < loss(*given)
