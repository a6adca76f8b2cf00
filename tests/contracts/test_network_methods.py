"""What every method promises that sees feature maps or has side modules; a new one is under test at once."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import distillers
import models
from benchmark.config import RunConfig
from benchmark.train.heads import Request
from benchmark.train.lane import Lane, create_network
from benchmark.train.teacher import BatchTeacher
from distillers import Outputs
from distillers.base import Distiller
from tests.conftest import make_config

NAMES = [name for name in distillers.names() if distillers.registry.get(name).needs_networks()]
TEACHER, STUDENT, SIDE, CLASSES, IMAGES, BATCH = "resnet8x2", "resnet8", 16, 10, 40, 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher() -> models.Network:
    return create_network(TEACHER, CLASSES, SIDE, seed=1).eval()


@pytest.fixture(scope="module")
def other_teacher() -> models.Network:
    return create_network(TEACHER, CLASSES, SIDE, seed=2).eval()


def config_of(name: str) -> RunConfig:
    return make_config(name, student=STUDENT, teacher=TEACHER, recipe={"batch_size": BATCH})


def lane_of(name: str, teacher: models.Network) -> Lane:
    return Lane(config_of(name), CLASSES, SIDE, CPU, teacher, torch.arange(IMAGES) % CLASSES)


@functools.cache
def folded(teacher: models.Network, requests: tuple[Request, ...]) -> BatchTeacher:
    """A teacher as a cohort runs it, made once for the methods that ask for the same."""
    return BatchTeacher(teacher, requests, CPU, "fp32", SIDE)


class Steps:
    """Steps of lanes on batches that are a function of their number, with one teacher for all."""

    def __init__(self, teacher: models.Network, *lanes: Lane) -> None:
        self.lanes = lanes
        requests = tuple(request for lane in lanes for request in lane.requests)
        self.teacher = folded(teacher, requests)
        self.views = sorted({request.view for request in requests})

    def take(self, first: int, last: int, epoch: int = 3) -> None:
        for lane in self.lanes:
            lane.start_epoch(epoch)
        self.go_on(first, last)

    def go_on(self, first: int, last: int) -> None:
        """Take more steps of the same epoch."""
        for number in range(first, last):
            draw = torch.Generator().manual_seed(number)
            views = {view: torch.randn(BATCH, 3, SIDE, SIDE, generator=draw) for view in self.views}
            target_B = torch.randint(CLASSES, (BATCH,), generator=draw)
            index_B = torch.randperm(IMAGES, generator=draw)[:BATCH]
            shown = self.teacher.outputs(views)
            for lane in self.lanes:
                lane.step(views, target_B, shown, index_B)
                lane.steps_done = number + 1


def everything(lane: Lane) -> dict[str, Tensor]:
    """All that the lane has learnt or remembers."""
    state: dict[str, Any] = lane.state()
    groups = ("network", "modules", "momentum")
    return {f"{group}/{key}": value for group in groups for key, value in state.get(group, {}).items()}


def check_equal(one: Lane, other: Lane) -> None:
    ours, theirs = everything(one), everything(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_from_the_teacher_alone_and_in_company(
    name: str, teacher: models.Network, other_teacher: models.Network
) -> None:
    """The numbers do not depend on the lanes beside it, and nothing of the teacher moves."""
    before = copy.deepcopy(teacher.state_dict())
    alone, beside, other = lane_of(name, teacher), lane_of(name, teacher), lane_of("sdd_kd", teacher)
    begun = {key: value.clone() for key, value in everything(alone).items()}
    Steps(teacher, alone).take(0, 2)
    Steps(teacher, other, beside).take(0, 2)
    check_equal(alone, beside)
    assert all(value.isfinite().all() for value in everything(alone).values())
    for key, parameter in alone._trained.items():
        assert key.startswith("modules.") is False or not torch.equal(
            parameter, begun[f"modules/{key.removeprefix('modules.')}"]
        ), f"{key} is trained by nothing"
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    changed = lane_of(name, teacher)
    Steps(other_teacher, changed).take(0, 2)
    assert any(
        not torch.equal(a, b) for a, b in zip(everything(alone).values(), everything(changed).values(), strict=True)
    ), "the loss does not depend on the teacher"


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_a_checkpoint_with_the_same_bits(name: str, teacher: models.Network) -> None:
    whole, second = lane_of(name, teacher), lane_of(name, teacher)
    steps = Steps(teacher, whole)
    steps.take(0, 2)
    second.load_state({"signature": "x", **whole.state()})
    steps.go_on(2, 4)
    Steps(teacher, second).take(2, 4)
    check_equal(whole, second)


@pytest.mark.parametrize("name", NAMES)
def test_side_modules_are_a_function_of_the_seed_and_no_part_of_the_student(name: str, teacher: models.Network) -> None:
    one, same = lane_of(name, teacher), lane_of(name, teacher)
    check_equal(one, same)
    plain = Lane(config_of("vanilla"), CLASSES, SIDE, CPU)
    network = {key: value for key, value in everything(one).items() if key.startswith("network/")}
    assert all(torch.equal(value, everything(plain)[key]) for key, value in network.items())
    exported = one.tested_weights()
    assert not one.distiller.is_tested_with_modules or any(key.startswith("modules.") for key in exported)
    assert one.distiller.is_tested_with_modules or exported.keys() == plain.tested_weights().keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_may_be_smaller_at_the_end_of_an_epoch(name: str, teacher: models.Network) -> None:
    lane = lane_of(name, teacher)
    steps = Steps(teacher, lane)
    steps.take(0, 1)
    views = {view: torch.randn(1, 3, SIDE, SIDE) for view in steps.views}
    lane.step(views, torch.tensor([3]), steps.teacher.outputs(views), torch.tensor([7]))
    assert all(value.isfinite().all() for value in everything(lane).values())


def test_logits_alone_are_not_enough() -> None:
    method = distillers.create("at")
    assert isinstance(method, Distiller)
    logits = torch.randn(4, CLASSES)
    alone = {"weak": Outputs(logits, logits[:, None][:, :0])}
    with pytest.raises(ValueError, match="feature maps"):
        method.losses(alone, alone, torch.zeros(4, dtype=torch.int64), 1)
