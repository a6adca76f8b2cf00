"""What is stored of a map yields what a network's head would have said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmark.train.heads import Request, head_outputs, layouts
from models import Network

REQUESTS = [
    Request("weak", (), "map"),
    Request("weak", (1,), "map"),
    Request("weak", (2,), "map"),
    Request("weak", (1, 2, 4), "from_4x4"),
    Request("weak", (1, 2, 4), "map"),
    Request("weak", (1, 3), "map"),
    Request("weak", (1, 2, 4, 8), "map"),
]
SIDES = [(8, 8), (4, 4), (7, 7), (2, 2), (1, 1), (8, 6), (14, 14)]


class Head(Network):
    """A head alone, affine or not."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear_head = linear
        self.head = nn.Linear(12, 5).double()

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits_K: Tensor = self.head(pooled_D)
        return logits_K if self.linear_head else logits_K.tanh()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("side", SIDES)
def test_logits_and_regions_follow_from_the_stored_cells(side: tuple[int, int], linear: bool) -> None:
    torch.manual_seed(0)
    network, map_BDHW = Head(linear), torch.randn(3, 12, *side, dtype=torch.float64)
    expected = head_outputs(network, map_BDHW, REQUESTS)
    answered = {}
    for layout in layouts(REQUESTS, *side, linear):
        answered |= layout.outputs(layout.cells(network, map_BDHW))
    assert answered.keys() == expected.keys()
    for request, outputs in expected.items():
        torch.testing.assert_close(answered[request].logits, outputs.logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(answered[request].regions, outputs.regions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_scale_sets_of_the_papers_share_one_store(side: tuple[int, int]) -> None:
    """What is stored must not depend on who asks: the digest of the cells is part of a cache's name."""
    sets = [(), (1,), (1, 2), (1, 4), (1, 2, 4)]
    stored = [
        layouts([Request("weak", scales, grids)], *side, True)[0].cells_SP
        for scales in sets
        for grids in ("map", "from_4x4")
    ]
    assert all(torch.equal(cells, stored[0]) for cells in stored)


def test_an_even_map_needs_its_finest_cells_only() -> None:
    (layout,) = layouts([Request("weak", (1, 2, 4), "from_4x4")], 8, 8, True)
    assert layout.num_cells == 16


def test_what_a_request_becomes_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    network, map_BDHW = Head(True), torch.randn(3, 12, 7, 7, dtype=torch.float64)

    def stored(requests: list[Request], wanted: Request) -> Tensor:
        for layout in layouts(requests, 7, 7, True):
            cells = layout.cells(network, map_BDHW).half()
            if wanted in layout.requests:
                return layout.outputs(cells)[wanted].regions
        raise AssertionError

    for wanted in REQUESTS:
        assert torch.equal(stored([wanted], wanted), stored(REQUESTS, wanted))
