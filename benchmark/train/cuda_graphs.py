"""A training step captured once as a CUDA graph and replayed: one launch per step instead of some thousand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

#: the input of a step: a batch's tensors by name
Inputs = Mapping[str, Tensor]
Step = Callable[[Inputs], None]
#: records a function's work on the device without doing it, and returns a function that does the work
Capture = Callable[[Callable[[], None]], Callable[[], None]]

#: steps taken eagerly before a shape is captured: they create momenta and sums, and let cuDNN and cuBLAS settle
EAGER_STEPS = 3


class ReplayedStep:
    """A training step that is eager for the first batches of every shape, then captured and replayed.

    A graph reads its batch from buffers of its own, into which each batch is copied; all other tensors that it touches
    (weights, momenta, statistics, sums, learning rate) stay where they are and change in place. The last, smaller batch
    of an epoch has a graph of its own. If capture fails, every further step is eager, and the reason is reported once.
    """

    def __init__(self, eager: Step, captured: Step, capture: Capture, say: Callable[[str], None]) -> None:
        """Take the step in both forms: `captured` only launches work on the device, and does not catch errors."""
        self._eager, self._captured, self._capture, self._say = eager, captured, capture, say
        self._graphs: dict[Hashable, tuple[dict[str, Tensor], Callable[[], None]]] = {}
        self._taken: Counter[Hashable] = Counter()
        self._is_off = False

    def __call__(self, inputs: Inputs) -> None:
        """Take one step."""
        key = tuple((name, value.shape, value.dtype) for name, value in sorted(inputs.items()))
        if key not in self._graphs and not self._is_off and self._taken[key] >= EAGER_STEPS:
            self._make(key, inputs)
        if key not in self._graphs:
            self._taken[key] += 1
            self._eager(inputs)
            return
        buffers, replay = self._graphs[key]
        for name, value in inputs.items():
            buffers[name].copy_(value)
        replay()

    def forget(self) -> None:
        """Drop every graph, because the tensors that they hold have changed, for instance when a student has left."""
        self._graphs.clear()

    def _turn_off(self, reason: str) -> None:
        """Take every further step eagerly, and report why."""
        self._is_off = True
        self.forget()
        self._say(f"the training step is not captured as a CUDA graph, and runs slower: {reason}")

    def _make(self, key: Hashable, inputs: Inputs) -> None:
        buffers = {name: value.clone() for name, value in inputs.items()}
        try:
            self._graphs[key] = buffers, self._capture(lambda: self._captured(buffers))
        except Exception as error:  # a network that cannot be captured, for any reason, can still be trained
            self._turn_off(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}")


class CudaCapture:
    """Capture on one device; all graphs share one memory pool, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Capture the work of `launch` and return its replay."""
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            launch()
        return graph.replay


def capture_for(device: torch.device) -> Capture | None:
    """Make the capture for steps on a device, or None where every step is taken eagerly."""
    return CudaCapture(device) if device.type == "cuda" else None


class Branches:
    """Functions run in parallel, each on its own stream; on a CPU, one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []

    def run(self, functions: list[Callable[[], None]]) -> None:
        """Run all functions, and return when each is launched.

        The caller must hold the tensors that they read until then: afterwards the current stream waits for all of them.
        """
        if self._device.type != "cuda":
            for function in functions:
                function()
            return
        while len(self._streams) < len(functions):
            self._streams.append(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]
        present = torch.cuda.current_stream(self._device)
        used = self._streams[: len(functions)]
        for stream, function in zip(used, functions, strict=True):
            stream.wait_stream(present)
            with torch.cuda.stream(stream):
                function()
        for stream in used:
            present.wait_stream(stream)
