"""Teacher outputs behind one interface: computed once per batch, or read from a view cache, for all lanes of a cohort.

Shape letters: B batch, K classes, S stored cells.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmark.config import Precision, Storage
from benchmark.train.folding import folded
from benchmark.train.heads import Layout, Request, feature_outputs, layouts, network_features
from distillers import Outputs
from distillers.network import Stages
from models import Network

#: the view whose images are crops and flips: finitely many, so that they can be stored
STORED_VIEW = "weak"
STORED_DTYPE: dict[Storage, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}


class BatchTeacher:
    """A frozen teacher: batch norms folded, channels last, run once per batch and view.

    Features are computed in `precision`; pooling, head and all after it in fp32. With a storage type, outputs of the
    weak view are made from cells rounded to it, exactly as a view cache would return them, so that a run's numbers
    do not depend on whether the cache had room.
    """

    def __init__(
        self,
        network: Network,
        requests: Iterable[Request],
        device: torch.device,
        precision: Precision,
        image_size: int,
        storage: Storage = "none",
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        example_BCHW = torch.randn(2, 3, image_size, image_size, generator=generator)
        self.device, self.precision, self.storage = device, precision, storage
        network = folded(network.cpu(), example_BCHW)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features = _in_bf16(self.network) if precision == "bf16" else self.network
        self.by_view: dict[str, list[Request]] = {}
        for request in dict.fromkeys(requests):
            self.by_view.setdefault(request.view, []).append(request)
        self.layouts: list[Layout] = []
        #: requests that are computed in every step: all, but those that a cache can hold
        self._live = {view: [*requests] for view, requests in self.by_view.items()}
        if storage != "none" and STORED_VIEW in self.by_view:
            stored = [request for request in self.by_view[STORED_VIEW] if request.sees == "logits"]
            self._live[STORED_VIEW] = [request for request in self.by_view[STORED_VIEW] if request not in stored]
            height, width = self.features(example_BCHW.to(device)).shape[2:]
            found = layouts(stored, height, width, self.network.linear_head)
            self.layouts = [layout.to(device, torch.float32) for layout in found]

    @torch.no_grad()
    def features(self, x_BCHW: Tensor) -> Tensor:
        """Compute the last feature map, (B, D, H, W), in fp32."""
        return self._stages(x_BCHW, []).map

    def _stages(self, x_BCHW: Tensor, requests: Sequence[Request]) -> Stages:
        """Compute the features that the requests see, in fp32."""
        if self.precision == "bf16":
            x_BCHW = x_BCHW.to(torch.bfloat16)
        return network_features(self._features, x_BCHW, requests).map_all(Tensor.float)

    @torch.no_grad()
    def outputs(self, views: Mapping[str, Tensor], stored: Sequence[Tensor] = ()) -> dict[Request, Outputs]:
        """Compute the outputs for every request of the cohort.

        `stored` holds the cells of the weak view, (B, S, K) for each layout, when a cache has them.
        """
        found: dict[Request, Outputs] = {}
        for view, requests in self._live.items():
            from_cells = view == STORED_VIEW and bool(self.layouts)
            cells = list(stored) if from_cells else []
            if requests or (from_cells and not cells):
                features = self._stages(views[view], requests)
                found |= feature_outputs(self.network, features, requests)
                cells = cells or (self._cells(features.map) if from_cells else [])
            for layout, cells_BSK in zip(self.layouts if from_cells else [], cells, strict=True):
                found |= layout.outputs(cells_BSK)
        return found

    @torch.no_grad()
    def cells(self, x_BCHW: Tensor) -> list[Tensor]:
        """Compute the cells that a cache stores for the weak view: (B, S, K) for each layout, in the storage type."""
        return self._cells(self.features(x_BCHW))

    def _cells(self, map_BDHW: Tensor) -> list[Tensor]:
        return [layout.cells(self.network, map_BDHW).to(STORED_DTYPE[self.storage]) for layout in self.layouts]

    @torch.no_grad()
    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Compute the teacher's own logits, (B, K)."""
        logits_BK: Tensor = self.network.classify(self.features(x_BCHW).mean(dim=(2, 3)))
        return logits_BK


def _in_bf16(network: Network) -> Network:
    """Make a copy that computes in bf16; statistics of batch norms that could not be folded stay fp32."""
    made = copy.deepcopy(network).to(torch.bfloat16)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.float()
    return made
