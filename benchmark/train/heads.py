"""Logits of a network's feature map: of the whole image, of regions, and of the few cells from which both follow.

Shape letters: B batch, K classes, R regions, S stored cells, P = H * W pixels of the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from distillers import Distiller, Outputs
from distillers.base import Grids, Sees
from distillers.network import Stages
from distillers.regions import pooling_matrix, with_regions
from models import Network


class Request(NamedTuple):
    """Outputs that a distiller wants from a network, for one view."""

    view: str
    scales: tuple[int, ...]
    grids: Grids
    sees: Sees = "logits"


def requests_of(distiller: Distiller) -> list[Request]:
    """List the requests of a distiller, one per view."""
    return [Request(view, distiller.scales, distiller.grids, distiller.sees) for view in distiller.views]


def network_outputs(network: Network, x_BCHW: Tensor, requests: Sequence[Request]) -> dict[Request, Outputs]:
    """Run a network once and compute its outputs for every request (all of one view)."""
    return feature_outputs(network, network_features(network, x_BCHW, requests), requests)


def network_features(network: Network, x_BCHW: Tensor, requests: Iterable[Request]) -> Stages:
    """Run a network once: its last map, and the maps of its stages where a request sees them."""
    if any(request.sees == "stages" for request in requests):
        return network.forward_stages(x_BCHW)
    return Stages((), (), network.forward_features(x_BCHW))


def feature_outputs(network: Network, features: Stages, requests: Sequence[Request]) -> dict[Request, Outputs]:
    """Compute the outputs for every request from a network's features, which go to those that see them."""
    found = head_outputs(network, features.map, requests)
    for request, made in found.items():
        if request.sees != "logits":
            found[request] = made._replace(features=features, head=network.classify)
    return found


def head_outputs(network: Network, map_BDHW: Tensor, requests: Iterable[Request]) -> dict[Request, Outputs]:
    """Read a network's head on its map for every request.

    Each request is computed by itself, never as part of a larger one: a lane's numbers must not depend on which scales
    its neighbours ask for.
    """
    logits_BK = network.classify(map_BDHW.mean(dim=(2, 3)))
    return {
        request: with_regions(logits_BK, map_BDHW, network.classify, network.linear_head, request.scales, request.grids)
        for request in requests
    }


#: stored cells serve at least these scales, with both kinds of grids, so that runs of other scale sets share them
STORED_SCALES = (1, 2, 4)


@dataclass(frozen=True)
class Layout:
    """The cells of a map that are stored, and how logits and regions follow from their logits.

    With an affine head the logits of a coarse region are the mean of those of its cells, so the finest grid serves all
    scales that it refines; regions that it does not yield (e.g. the mean of a 7 x 7 map) are stored in addition.
    """

    requests: tuple[Request, ...]
    #: (S, P) float64: each stored cell as an average of pixels
    cells_SP: Tensor
    #: (1 + R, S) float64 by request: the whole image's logits, then the regions', as averages of cells
    averages: tuple[Tensor, ...]

    @property
    def num_cells(self) -> int:
        """Number of stored cells, S."""
        return len(self.cells_SP)

    def to(self, device: torch.device, dtype: torch.dtype) -> Layout:
        """Copy the layout with its matrices on the device, so that no step has to copy them there."""
        averages = tuple(average.to(device, dtype) for average in self.averages)
        return Layout(self.requests, self.cells_SP.to(device, dtype), averages)

    def cells(self, network: Network, map_BDHW: Tensor) -> Tensor:
        """Compute the logits of the stored cells, (B, S, K)."""
        pixels_BPD = map_BDHW.flatten(2).transpose(1, 2)
        if network.linear_head and self.cells_SP.shape[1] <= self.num_cells:
            return self.cells_SP @ network.classify(pixels_BPD)
        return network.classify(self.cells_SP @ pixels_BPD)

    def outputs(self, cells_BSK: Tensor) -> dict[Request, Outputs]:
        """Compute logits and regions of every request from the stored cells, in the layout's own precision."""
        found = {}
        for request, average in zip(self.requests, self.averages, strict=True):
            all_BRK = average @ cells_BSK.to(average.dtype)
            found[request] = Outputs(all_BRK[:, 0], all_BRK[:, 1:])
        return found


def layouts(requests: Sequence[Request], height: int, width: int, linear_head: bool) -> list[Layout]:
    """Make the layouts that store the given requests, one per finest scale.

    A request's outputs do not depend on the other requests: its finest scale is its own, and a region is stored by
    itself exactly when that grid does not yield it.
    """
    by_finest: dict[int, list[Request]] = {}
    for request in dict.fromkeys(requests):
        by_finest.setdefault(max(*STORED_SCALES, *request.scales), []).append(request)
    return [_layout(finest, members, height, width, linear_head) for finest, members in sorted(by_finest.items())]


def _layout(finest: int, requests: list[Request], height: int, width: int, linear_head: bool) -> Layout:
    wanted = [_wanted(request.scales, request.grids, height, width) for request in requests]
    always = [_wanted(STORED_SCALES, grids, height, width) for grids in get_args(Grids)]
    rows = torch.cat([*always, *wanted])
    grid = _pooling(height, width, (finest,), "map") if linear_head else rows[:0]
    extra = rows[~_yields(grid, rows)]
    cells_SP = torch.cat([grid, torch.unique(extra, dim=0)]) if len(extra) else grid
    return Layout(tuple(requests), cells_SP, tuple(_averages(grid, cells_SP, rows) for rows in wanted))


def _wanted(scales: tuple[int, ...], grids: Grids, height: int, width: int) -> Tensor:
    whole = torch.full((1, height * width), 1 / (height * width), dtype=torch.float64)
    return torch.cat([whole, _pooling(height, width, scales, grids)]) if scales else whole


def _pooling(height: int, width: int, scales: tuple[int, ...], grids: Grids) -> Tensor:
    return pooling_matrix(height, width, scales, grids, torch.float64, torch.device("cpu"))


def _averages(grid_GP: Tensor, cells_SP: Tensor, rows_RP: Tensor) -> Tensor:
    """Solve A @ cells = rows for A, (R, S): averages of the grid where it yields the row, else the row's own cell."""
    averages_RS = torch.zeros(len(rows_RP), len(cells_SP), dtype=torch.float64)
    yielded_R = _yields(grid_GP, rows_RP)
    averages_RS[yielded_R, : len(grid_GP)] = _solve(grid_GP, rows_RP[yielded_R])
    for row in (~yielded_R).nonzero()[:, 0].tolist():
        same_S = (cells_SP[len(grid_GP) :] == rows_RP[row]).all(dim=1)
        averages_RS[row, len(grid_GP) + int(same_S.nonzero()[0, 0])] = 1
    return averages_RS


def _solve(grid_GP: Tensor, rows_RP: Tensor) -> Tensor:
    """Find the averages of the grid nearest to the rows; entries are rational, so rounding noise is removed."""
    solved = rows_RP @ torch.linalg.pinv(grid_GP)
    return torch.where(solved.abs() < 1e-12, 0, solved)


def _yields(grid_GP: Tensor, rows_RP: Tensor) -> Tensor:
    if not len(grid_GP):
        return torch.zeros(len(rows_RP), dtype=torch.bool)
    return (_solve(grid_GP, rows_RP) @ grid_GP - rows_RP).abs().amax(dim=1) < 1e-9
