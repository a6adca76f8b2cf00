"""A GPU that is not there: torch's fake tensors on `cuda`, which have shapes, types and devices, but no values.

What would wait for a GPU's values fails here, and what would mix tensors of two devices; numbers are not computed.
Not covered, since no fake tensor shows it: kernels of CUDA and what they return; streams, events and the capture of a
graph; random numbers drawn on the device (the lane's own stream for dropout); free memory, and pinned memory; how
images reach the device and how views such as `strong` change them; `torch.compile`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmark.train import lane, random_stream, step
from benchmark.train.cuda_graphs import Branches
from benchmark.train.heads import Layout
from benchmark.train.random_stream import RandomStream
from benchmark.train.teacher import BatchTeacher

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
_DEVICE_OF = torch.ops.prim.device.default
#: it has no form for fake tensors; it changes its inputs in place and returns nothing
_FUSED_SGD = torch.ops.aten._fused_sgd_.tensor_lr
#: packages whose modules keep constants of a device between calls
_PACKAGES = ("benchmark.datasets", "benchmark.train", "distillers", "models")


class WaitsForTheDevice(AssertionError):
    """An operation that copies between host and device, or works on tensors of both."""


class _Watch(TorchDispatchMode):
    """Look at the devices of every operation, whose results `FakeTensorMode` below makes up."""

    def __init__(self) -> None:
        super().__init__()
        #: whether tensors may be copied to the device: constants, which the first step makes once
        self.may_make_constants = False
        #: ids of the last operation's results, which autograd asks about next
        self._new: set[int] = set()
        #: whether each autocast that is entered, the innermost last, converts
        self.autocasts: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is _DEVICE_OF:
            return self._told(args[0])
        if named.get("device") == META:  # what C++ makes on the device that it was told
            named["device"] = CUDA
        given = _devices((args, named))
        result = None if func is _FUSED_SGD else func(*args, **named)
        learns = torch.is_grad_enabled() and any(one.requires_grad for one in _tensors((args, named)))
        self._new = set(map(id, _tensors(result))) if learns else set()
        made = _devices(result)
        if len(given) > 1 and not (func is torch.ops.aten.copy_.default and self._is_constant(args)):
            raise WaitsForTheDevice(f"{func}: tensors of two devices, cpu and cuda")
        if given == {"cuda"} and "cpu" in made:
            raise WaitsForTheDevice(f"{func}: copies from the device to the host, which waits for the device")
        if given == {"cpu"} and "cuda" in made and not self.may_make_constants:
            raise WaitsForTheDevice(f"{func}: copies from the host to the device inside a step: make the constant once")
        return result

    def _told(self, tensor: Any) -> torch.device:
        """The device that C++ is told; Python reads `FakeTensor.device`.

        Autograd starts CUDA for tensors that say `cuda`: it is told `meta`. Autocast converts only what says `cuda`.
        """
        device: torch.device = tensor.fake_device
        is_of_autograd = id(tensor) in self._new or torch._C._current_graph_task_id() != -1
        self._new.discard(id(tensor))
        if device.type != "cuda" or (self.autocasts and self.autocasts[-1] and not is_of_autograd):
            return device
        return META

    def _is_constant(self, args: tuple[Any, ...]) -> bool:
        return self.may_make_constants and args[0].fake_device.type == "cuda"


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Tensors of an operation's arguments or results: torch's own walk over trees takes a tenth of a test."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from _tensors(one)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _devices(tree: Any) -> set[str]:
    return {tensor.device.type for tensor in _tensors(tree)}


class FakeGpu:
    """The GPU, inside `fake_gpu`."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    @contextlib.contextmanager
    def making_constants(self) -> Iterator[None]:
        """Let tensors be copied to the device, as the first step of an epoch does; reading them back is still wrong."""
        before, self._watch.may_make_constants = self._watch.may_make_constants, True
        try:
            yield
        finally:
            self._watch.may_make_constants = before

    def network(self, network: nn.Module) -> nn.Module:
        """Move a real network, in place; asking it to move again does nothing."""
        return _placed(network)

    def teacher(self, make: Callable[[], BatchTeacher]) -> BatchTeacher:
        """Make a teacher for real on the CPU, where its folding is checked, and move it."""
        with _disable_current_modes():
            made = make()
        same = made._features is made.network
        _placed(made.network)
        made._features = made.network if same else _placed(made._features)
        with self.making_constants():
            made.layouts = [_fake(layout).to(CUDA, torch.float32) for layout in made.layouts]
        made.device = CUDA
        return made


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Work on a fake GPU: tensors that are made inside are fake, and real ones are refused."""
    watch = _Watch()
    _forget_constants()
    with pytest.MonkeyPatch.context() as patch:
        _let_work_without_a_driver(patch)
        _show_autocasts(patch, watch)
        with FakeTensorMode(allow_non_fake_inputs=False), watch:
            yield FakeGpu(watch)
    _forget_constants()


def _let_work_without_a_driver(patch: pytest.MonkeyPatch) -> None:
    """Replace the few steps of a lane that start CUDA or compute with real tensors."""
    # autocast turns itself off where no GPU is
    patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    # it asks C++ for the devices of parameters, which are told `meta`
    grouped = torch._C._group_tensors_by_device_and_dtype

    def named_by_device(*arguments: Any) -> dict[Any, Any]:
        return {(CUDA if key[0] == META else key[0], key[1]): those for key, those in grouped(*arguments).items()}

    patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", named_by_device)
    patch.setattr(torch.optim, "SGD", _SGD)
    create, create_modules = lane.create_network, lane.create_modules
    #: the real network by the id of the one that was placed
    real: dict[int, Any] = {}

    def created(*arguments: Any) -> nn.Module:
        with _disable_current_modes():
            network = create(*arguments)
            twin = copy.deepcopy(network)
        real[id(twin)] = network
        return cast(nn.Module, _placed(twin))

    def modules_created(distiller: Any, student: nn.Module, *others: Any) -> nn.Module | None:
        """Side modules are made for real from real networks: they may read values, before training."""
        with _disable_current_modes():
            modules = create_modules(distiller, real[id(student)], *others)
        return None if modules is None else cast(nn.Module, _placed(modules))

    patch.setattr(lane, "create_network", created)
    patch.setattr(lane, "create_modules", modules_created)
    # generators are the driver's
    patch.setattr(random_stream, "first_state", lambda seed, device: None)
    patch.setattr(RandomStream, "drawn_from", lambda self: contextlib.nullcontext())
    patch.setattr(RandomStream, "has_advanced", lambda self: False)
    patch.setattr(step, "Branches", lambda device: Branches(CPU))  # one stream, the same work


def _show_autocasts(patch: pytest.MonkeyPatch, watch: _Watch) -> None:
    """Let the watch know of autocast, which is off while it asks for devices."""
    enter, leave = torch.autocast.__enter__, torch.autocast.__exit__

    def entered(self: torch.autocast) -> Any:
        watch.autocasts.append(self._enabled and self.device == "cuda")
        return enter(self)

    def left(self: torch.autocast, *raised: Any) -> Any:
        watch.autocasts.pop()
        return leave(self, *raised)

    patch.setattr(torch.autocast, "__enter__", entered)
    patch.setattr(torch.autocast, "__exit__", left)


class _SGD(torch.optim.SGD):
    """SGD whose constructor does not read the learning rate, which it does once to refuse a negative one."""

    def __init__(self, params: Any, lr: float | Tensor, **options: Any) -> None:
        super().__init__(params, lr=0.1, **options)
        for group in self.param_groups:
            group["lr"] = lr


def _placed(network: Any) -> Any:
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, FakeTensor):
                module._parameters[name] = nn.Parameter(_moved(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, FakeTensor):
                module._buffers[name] = _moved(buffer)
    # made now, when autograd asks for the devices of parameters outside of autocast, and kept as long as the network
    network.edges = [get_gradient_edge(one) for one in network.parameters() if one.requires_grad]
    network.to = lambda *_, **__: network  # `Module.to` cannot swap fake parameters
    return network


def _moved(tensor: Tensor) -> Tensor:
    images = tensor.ndim == 4 and tensor.is_floating_point()
    layout = torch.channels_last if images else torch.contiguous_format
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA, memory_format=layout)


def _fake(layout: Layout) -> Layout:
    """The same layout in fake tensors on the host."""
    averages = tuple(torch.empty(one.shape, dtype=one.dtype) for one in layout.averages)
    return Layout(layout.requests, torch.empty(layout.cells_SP.shape, dtype=layout.cells_SP.dtype), averages)


def _forget_constants() -> None:
    """Clear what functions keep between calls: fake tensors are of no use outside, and real ones inside."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGES):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
