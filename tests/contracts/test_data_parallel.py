"""Methods say what several processes that share a minibatch must know: whether they compare or remember its images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import distillers
from benchmark.train.heads import network_outputs
from benchmark.train.lane import Lane, create_network
from benchmark.train.ranks import running_statistics
from distillers.base import Extras
from models import Network
from tests.conftest import make_config

TEACHER, STUDENT, SIDE, CLASSES, BATCH, IMAGES = "resnet8x2", "resnet8_half", 16, 10, 8, 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def teacher(_float64: None) -> Network:
    return create_network(TEACHER, CLASSES, SIDE, seed=1).eval()


class Losses:
    """A method's loss on parts of one minibatch; networks are in eval mode, so that batch norms compare nothing."""

    def __init__(self, name: str, teacher: Network) -> None:
        method = distillers.registry.get(name)
        config = make_config(
            name,
            student=STUDENT,
            teacher=TEACHER if method.needs_teacher else None,
            recipe={"batch_size": BATCH},
        )
        self.teacher, self.lane = teacher, Lane(config, CLASSES, SIDE, CPU, teacher, torch.arange(IMAGES) % CLASSES)
        self.lane.eval()
        draw = torch.Generator().manual_seed(0)
        self.views = {view: torch.randn(BATCH, 3, SIDE, SIDE, generator=draw) for view in self.lane.distiller.views}
        self.target_B = torch.randint(CLASSES, (BATCH,), generator=draw)

    @torch.no_grad()
    def of(self, part: slice) -> Tensor:
        students, teachers = (
            {r.view: network_outputs(network, self.views[r.view][part], [r])[r] for r in self.lane.requests}
            for network in (self.lane.network, self.teacher)
        )
        shown = teachers if self.lane.distiller.needs_teacher else {}
        extras = Extras(self.lane.modules, torch.arange(BATCH)[part])
        return torch.stack(
            [*self.lane.distiller.losses(students, shown, self.target_B[part], 1, extras).values()]
        ).sum()


def test_the_control_of_mean_weights_compares_images() -> None:
    """As much loss and no region singled out: the weight is that of a process's share."""
    of = distillers.create("sdd_kd", sdd={"weights": "mean"})
    assert of.couples_batch
    assert not distillers.create("sdd_kd").couples_batch
    assert not distillers.create("sdd_kd", sdd={"weights": "mean", "scales": (1,)}).couples_batch


@pytest.mark.parametrize("name", distillers.names())
def test_a_method_says_whether_it_compares_or_remembers_images(name: str, teacher: Network) -> None:
    method, losses = distillers.registry.get(name), Losses(name, teacher)
    modules = losses.lane.modules
    whole = losses.of(slice(0, BATCH))
    shares = (3 * losses.of(slice(0, 3)) + (BATCH - 3) * losses.of(slice(3, BATCH))) / BATCH
    assert method.couples_batch == bool((whole - shares).abs() > 1e-9 * whole.abs())
    if modules is not None:
        modules.train()
        statistics = {id(x) for x in running_statistics([modules])}
        kept = [x for x in modules.buffers() if id(x) not in statistics and x.is_floating_point()]
        before = [x.clone() for x in kept]
        losses.of(slice(0, BATCH))
        changed = any(not torch.equal(x, old) for x, old in zip(kept, before, strict=True))
        assert method.remembers_images == changed
