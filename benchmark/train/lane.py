"""One student of a cohort: network, distiller, optimiser, sums kept on the device, its checkpoint.

A lane's result does not depend on the lanes that train with it: it reads nothing from them, and its random numbers
(initial weights, dropout) come from streams of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

import models
from benchmark.config import RunConfig
from benchmark.randomness import stream_seed
from benchmark.train.epoch_sums import EpochSums
from benchmark.train.heads import Request, network_outputs, requests_of
from benchmark.train.random_stream import RandomStream
from benchmark.train.ranks import ALONE, Ranks, running_statistics, synchronized
from distillers import Distiller, Outputs
from distillers.base import Extras, Facts


class Lane:
    """One student, trained on the batches it is given."""

    def __init__(
        self,
        config: RunConfig,
        num_classes: int,
        image_size: int,
        device: torch.device,
        teacher: models.Network | None = None,
        targets_N: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Make the student; `teacher`, as it was stored, and `targets_N` are for side modules.

        `targets_N` are the classes of the training set, -1 where an image is not trained on.
        """
        self.config, self.device, self.ranks = config, device, ranks
        self.distiller = config.distiller()
        self.requests = requests_of(self.distiller)
        self.epochs_done = 0
        #: steps of the next epoch that are done; the loop counts them, since a replayed step runs no code of the lane
        self.steps_done = 0
        #: one row of metrics per finished epoch
        self.history: list[dict[str, float]] = []
        #: seconds spent on the student's own steps: in this epoch, and in all finished epochs
        self.epoch_seconds = self.train_seconds = 0.0
        network = create_network(config.student, num_classes, image_size, config.seed)
        #: connectors, memories and the like of the method, which are trained and saved with the student; or None
        self.modules: nn.Module | None = None
        if teacher is not None:
            if targets_N is None:
                targets_N = torch.empty(0, dtype=torch.int64)
            facts = Facts(num_classes, image_size, targets_N, config.recipe.batch_size // ranks.size)
            self.modules = create_modules(self.distiller, network, teacher, facts, config.seed)
        if self.modules is not None:
            self.modules = self.modules.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_batch_norm and ranks.are_several:
            network = synchronized(network, device)
            self.modules = None if self.modules is None else synchronized(self.modules, device)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            self.network.forward_features = torch.compile(self.network.forward_features)
            self.network.forward_stages = torch.compile(self.network.forward_stages)
        on_gpu = device.type == "cuda"
        self._trained = dict(self._named_parameters())
        self._parameters = list(self._trained.values())
        self.optimizer = torch.optim.SGD(
            self._parameters,
            # a captured step reads both from the device, where they change without a new capture
            lr=torch.tensor(config.recipe.lr, device=device) if on_gpu else config.recipe.lr,
            momentum=config.recipe.momentum,
            weight_decay=config.recipe.weight_decay,
            fused=True,
        )
        self._epoch: int | Tensor = torch.zeros((), device=device) if on_gpu else 0
        #: what ranks differ in but for their images
        self._statistics = running_statistics([self.network, self.modules]) if ranks.are_several else []
        #: what dropout draws from; every rank has a stream of its own
        of_rank = () if ranks.is_first else (ranks.rank,)
        self._random = RandomStream(stream_seed(config.seed, "dropout", config.student, *of_rank), device)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
        self._sums = EpochSums(device, ranks)

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained: the student's parameters, and under `modules.` those of its side modules."""
        yield from self.network.named_parameters()
        if self.modules is not None:
            for name, parameter in self.modules.named_parameters():
                if parameter.requires_grad:
                    yield f"modules.{name}", parameter

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 1; clear the sums, unless the epoch was begun before."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.config.recipe.lr_at(epoch))
            else:
                group["lr"] = self.config.recipe.lr_at(epoch)
        if isinstance(self._epoch, Tensor):
            self._epoch.fill_(epoch)
        else:
            self._epoch = epoch
        self.network.train()
        if self.modules is not None:
            self.modules.train()
        if self.steps_done:  # its sums came from a checkpoint
            return
        self._sums.clear()
        self.epoch_seconds = 0.0

    def step(
        self,
        views: Mapping[str, Tensor],
        target_B: Tensor,
        teacher: Mapping[Request, Outputs],
        index_B: Tensor | None = None,
    ) -> None:
        """Take one optimiser step. Reads nothing back from the device.

        `index_B` numbers the images of the batch in the training set, for methods that remember them.
        """
        started = time.perf_counter()  # on a GPU steps are only launched here, and the loop measures the epoch
        with self._random.drawn_from():
            student = self._forward(views)
        self._learn(student, target_B, teacher, index_B)
        self.epoch_seconds += time.perf_counter() - started

    def step_without_randomness(
        self,
        views: Mapping[str, Tensor],
        target_B: Tensor,
        teacher: Mapping[Request, Outputs],
        index_B: Tensor | None = None,
    ) -> None:
        """Take the same step with a network that draws no random numbers: it uses tensors only, to be captured."""
        self._learn(self._forward(views), target_B, teacher, index_B)

    def _forward(self, views: Mapping[str, Tensor]) -> dict[str, Outputs]:
        with self._autocast:
            return {
                request.view: network_outputs(self.network, views[request.view], [request])[request]
                for request in self.requests
            }

    def _learn(
        self,
        student: Mapping[str, Outputs],
        target_B: Tensor,
        teacher: Mapping[Request, Outputs],
        index_B: Tensor | None,
    ) -> None:
        sees_teacher = self.distiller.needs_teacher  # the teacher may be there for other lanes only
        shown = {request.view: teacher[request] for request in self.requests} if sees_teacher else {}
        losses = self.distiller.losses(student, shown, target_B, self._epoch, Extras(self.modules, index_B))
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.ranks.average(self._parameters, self._statistics, len(target_B))
        if self.config.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.config.recipe.clip_norm, foreach=True)
        self.optimizer.step()
        self._add_up(losses, total.detach(), student, shown, target_B)

    @torch.no_grad()
    def _add_up(
        self,
        losses: Mapping[str, Tensor],
        total: Tensor,
        student: Mapping[str, Outputs],
        teacher: Mapping[str, Outputs],
        target_B: Tensor,
    ) -> None:
        figures = {f"loss_{name}": value.detach() for name, value in losses.items()}
        if len(figures) > 1:
            figures["loss"] = total
        figures |= self.distiller.diagnostics(student, teacher, target_B)
        figures["top1"] = 100 * (student["weak"].logits.argmax(dim=1) == target_B).float().mean()
        self._sums.add(figures, total, len(target_B))

    def finish_epoch(self, epoch: int) -> None:
        """Read the epoch's sums, once, and append its row to the history.

        Raises:
            NonFiniteLoss: when a step's loss was not finite; nothing is appended.
        """
        row = {f"train/{name}": value for name, value in self._sums.means(epoch).items()}
        row["lr"] = self.config.recipe.lr_at(epoch)
        row["epoch"] = epoch
        self.history.append(row)
        self.epochs_done, self.steps_done = epoch, 0

    def reopen_epoch(self, num_steps: int) -> None:
        """Undo `finish_epoch`, after an evaluation that did not end: all `num_steps` steps of the epoch are done."""
        self.history.pop()
        self.epochs_done, self.steps_done = self.epochs_done - 1, num_steps

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Compute the student's own logits, (B, K), in its current mode."""
        with self._autocast:
            if self.distiller.is_tested_with_modules:
                outputs = network_outputs(self.network, x_BCHW, self.requests[:1])[self.requests[0]]
                return self.distiller.tested_logits(outputs, Extras(self.modules))
            logits_BK: Tensor = self.network(x_BCHW)
        return logits_BK

    def eval(self) -> None:
        """Set the student and its side modules to be tested; the next epoch sets them to be trained again."""
        self.network.eval()
        if self.modules is not None:
            self.modules.eval()

    def tested_weights(self) -> dict[str, Tensor]:
        """Weights of all that the student is tested with, on the CPU: its side modules only where they take part."""
        found = weights_of(self.network)
        if self.distiller.is_tested_with_modules and self.modules is not None:
            found |= {f"modules.{name}": value for name, value in weights_of(self.modules).items()}
        return found

    def draws_random_numbers(self) -> bool:
        """Whether the network drew random numbers in the steps so far, as dropout does."""
        return self._random.has_advanced()

    def state(self) -> dict[str, Any]:
        """Copy all state that the next step depends on to the CPU, detached from the tensors that training changes.

        Within an epoch this reads from the device, and waits for it. All ranks must call it, and get the same.

        Raises:
            NonFiniteLoss: when the loss of a step in the unfinished epoch was not finite.
        """
        within: dict[str, Any] = {}
        if self.steps_done:
            within = {**self._sums.state(self.epochs_done + 1), "epoch_seconds": self.epoch_seconds}
        return {
            "epochs_done": self.epochs_done,
            "steps_done": self.steps_done,
            **within,
            "network": _copied(self.network),
            **({} if self.modules is None else {"modules": _copied(self.modules)}),
            "momentum": {
                name: self.optimizer.state[parameter]["momentum_buffer"].cpu().clone()
                for name, parameter in self._trained.items()
                if "momentum_buffer" in self.optimizer.state[parameter]
            },
            "random_state": self._random_state(),
            "history": [dict(row) for row in self.history],
            "train_seconds": self.train_seconds,
        }

    def _random_state(self) -> Tensor:
        """State of the lane's random numbers; of several ranks one below the other."""
        return self.ranks.gathered(self._random.state) if self.ranks.are_several else self._random.state.clone()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.network.load_state_dict(state["network"])
        if self.modules is not None:
            self.modules.load_state_dict(state["modules"])
        for name, parameter in self._trained.items():
            if name in state["momentum"]:
                buffer = torch.empty_like(parameter).copy_(state["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        random_state = state["random_state"]
        self._random.state = random_state[self.ranks.rank].clone() if self.ranks.are_several else random_state
        self.epochs_done, self.steps_done = state["epochs_done"], state["steps_done"]
        if self.steps_done:
            self._sums.load_state(state, self.steps_done)
            self.epoch_seconds = state["epoch_seconds"]
        self.history = [dict(row) for row in state["history"]]
        self.train_seconds = state["train_seconds"]


def create_network(name: str, num_classes: int, image_size: int, seed: int) -> models.Network:
    """Create a network whose initial weights are a function of (seed, architecture)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights", name))
        return models.create(name, num_classes, image_size)


def create_modules(
    distiller: Distiller, student: models.Network, teacher: models.Network, facts: Facts, seed: int
) -> nn.Module | None:
    """Make a method's side modules, whose initial values are a function of (seed, method)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "modules", distiller.name))
        return distiller.modules(student, teacher, facts)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of a network on the CPU, contiguous, as safetensors stores them."""
    state = cast(dict[str, Tensor], network.state_dict())
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
