"""One student of a cohort: network, distiller, optimiser, sums kept on the device, its checkpoint.

A lane's result does not depend on who trains beside it: it reads nothing of the other lanes, and its random numbers
(initial weights, dropout) come from streams of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

import models
from benchmark.config import RunConfig
from benchmark.environment import stream_seed
from benchmark.teacher import Request, network_outputs, requests_of
from distillers import Outputs


class NonFiniteLoss(RuntimeError):
    """The loss of a lane was not finite; the message names the epoch and the first bad step."""


class Lane:
    """Trains one student on batches it is given."""

    def __init__(self, config: RunConfig, num_classes: int, image_size: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.distiller = config.distiller()
        self.requests = requests_of(self.distiller)
        self.epochs_done = 0
        #: one row of metrics per finished epoch
        self.history: list[dict[str, float]] = []
        #: spent on the student's own steps: in this epoch, and in all finished ones
        self.epoch_seconds = self.train_seconds = 0.0
        network = create_network(config.student, num_classes, image_size, config.seed)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            compiled = torch.compile(self.network.forward_features)
            self.network.forward_features = compiled
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.recipe.lr,
            momentum=config.recipe.momentum,
            weight_decay=config.recipe.weight_decay,
            foreach=True,
        )
        self._parameters = list(self.network.parameters())
        self._random_state = _initial_random_state(stream_seed(config.seed, "dropout", config.student), device)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
        self._sums: dict[str, Tensor] = {}
        self._bad_step = torch.full((), -1, device=device)
        self._num_steps = self._num_images = 0

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 1, and clear the sums."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.recipe.lr_at(epoch)
        self.network.train()
        self._sums = {}
        self.epoch_seconds = 0.0
        self._bad_step.fill_(-1)
        self._num_steps = self._num_images = 0

    def step(
        self,
        views: Mapping[str, Tensor],
        target_B: Tensor,
        teacher: Mapping[Request, Outputs],
        epoch: int,
    ) -> None:
        """Make one optimiser step. Reads nothing back from the device."""
        started = time.perf_counter()  # on a GPU steps are only launched here, and the loop measures the epoch
        with self._own_random_numbers(), self._autocast:
            student = {
                request.view: network_outputs(self.network, views[request.view], [request])[request]
                for request in self.requests
            }
        sees_teacher = self.distiller.needs_teacher  # a neighbour's teacher is none of its own
        shown = {request.view: teacher[request] for request in self.requests} if sees_teacher else {}
        losses = self.distiller.losses(student, shown, target_B, epoch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.config.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.config.recipe.clip_norm, foreach=True)
        self.optimizer.step()
        self._add_up(losses, total.detach(), student, shown, target_B)
        self.epoch_seconds += time.perf_counter() - started

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
        for name, value in figures.items():
            weighted = value.double() * len(target_B)
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted
        bad = (self._bad_step < 0) & ~torch.isfinite(total)
        self._bad_step = torch.where(bad, self._num_steps, self._bad_step)
        self._num_steps += 1
        self._num_images += len(target_B)

    def finish_epoch(self, epoch: int) -> None:
        """Read the epoch's sums, once, and append its row to the history.

        Raises:
            NonFiniteLoss: when a step's loss was not finite; nothing is appended.
        """
        names = list(self._sums)
        values = torch.stack([*self._sums.values(), self._bad_step.double()]).tolist()
        if values[-1] >= 0:
            raise NonFiniteLoss(f"the loss was not finite at epoch {epoch}, step {int(values[-1]) + 1}")
        row = {f"train/{name}": value / self._num_images for name, value in zip(names, values, strict=False)}
        row["lr"] = self.config.recipe.lr_at(epoch)
        row["epoch"] = epoch
        self.history.append(row)
        self.epochs_done = epoch

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Return the student's own logits in its present mode."""
        with self._autocast:
            logits_BK: Tensor = self.network(x_BCHW)
        return logits_BK

    @contextlib.contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Let dropout draw from the lane's own stream, whoever draws before or after it."""
        on_gpu = self.device.type == "cuda"
        outside = torch.cuda.get_rng_state(self.device) if on_gpu else torch.get_rng_state()
        _set_random_state(self._random_state, self.device)
        try:
            yield
        finally:
            self._random_state = torch.cuda.get_rng_state(self.device) if on_gpu else torch.get_rng_state()
            _set_random_state(outside, self.device)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, on the CPU, detached from what training changes."""
        return {
            "epochs_done": self.epochs_done,
            "network": {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()},
            "momentum": {
                name: self.optimizer.state[parameter]["momentum_buffer"].cpu().clone()
                for name, parameter in self.network.named_parameters()
                if "momentum_buffer" in self.optimizer.state[parameter]
            },
            "random_state": self._random_state.clone(),
            "history": [dict(row) for row in self.history],
            "train_seconds": self.train_seconds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.network.load_state_dict(state["network"])
        for name, parameter in self.network.named_parameters():
            if name in state["momentum"]:
                buffer = torch.empty_like(parameter).copy_(state["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self._random_state = state["random_state"]
        self.epochs_done = state["epochs_done"]
        self.history = [dict(row) for row in state["history"]]
        self.train_seconds = state["train_seconds"]


def create_network(name: str, num_classes: int, image_size: int, seed: int) -> models.Network:
    """Return a new network whose initial weights are a function of (seed, architecture)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights", name))
        return models.create(name, num_classes, image_size)


def _initial_random_state(seed: int, device: torch.device) -> Tensor:
    source = torch.Generator(device).manual_seed(seed)
    return source.get_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights and buffers on the CPU, contiguous: what is stored as safetensors."""
    state = cast(dict[str, Tensor], network.state_dict())
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
