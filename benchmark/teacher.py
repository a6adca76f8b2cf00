"""Teacher outputs behind one interface: computed once per batch, shared by every lane of a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.config import Precision
from distillers import Distiller, Outputs
from distillers.base import Grids
from distillers.regions import region_logits
from models import Network


class Request(NamedTuple):
    """The outputs a distiller wants from a network, for one view."""

    view: str
    scales: tuple[int, ...]
    grids: Grids


def requests_of(distiller: Distiller) -> list[Request]:
    """Return what a distiller wants, one request per view."""
    return [Request(view, distiller.scales, distiller.grids) for view in distiller.views]


def network_outputs(network: Network, x_BCHW: Tensor, head: Iterable[Request]) -> dict[Request, Outputs]:
    """Run a network once and read its head for every request (all of one view).

    Each request is computed by itself, never as part of a larger one: a lane's numbers must not depend on which scales
    its neighbours ask for.
    """
    map_BDHW = network.forward_features(x_BCHW)
    logits_BK = network.classify(map_BDHW.mean(dim=(2, 3)))
    none_BRK = logits_BK.new_empty(len(logits_BK), 0, logits_BK.shape[1])
    return {
        request: Outputs(
            logits_BK,
            region_logits(map_BDHW, network.classify, network.linear_head, request.scales, request.grids)
            if request.scales
            else none_BRK,
        )
        for request in head
    }


class BatchTeacher:
    """A frozen teacher, run once per batch and view."""

    def __init__(self, network: Network, requests: Iterable[Request], device: torch.device, precision: Precision):
        placed = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = placed.eval().requires_grad_(False)
        self.by_view: dict[str, list[Request]] = {}
        for request in dict.fromkeys(requests):
            self.by_view.setdefault(request.view, []).append(request)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    @torch.no_grad()
    def outputs(self, views: Mapping[str, Tensor]) -> dict[Request, Outputs]:
        """Return the outputs for every request of the cohort."""
        found: dict[Request, Outputs] = {}
        with self._autocast:
            for view, requests in self.by_view.items():
                found |= network_outputs(self.network, views[view], requests)
        return found

    @torch.no_grad()
    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Return the teacher's own logits, (B, K)."""
        with self._autocast:
            logits_BK: Tensor = self.network(x_BCHW)
        return logits_BK
