"""Count the operators that a piece of code dispatches, and how often the host waits for a value.

A wait is counted where the host would wait on a GPU, even when the code runs on a CPU. One kind can only be told apart
on a GPU: a single value of the device that is assigned through a mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: operators whose result, or its shape, is a value that the host has to know
_READS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique2",
}
_INDEXED = {"aten::index"}
_ASSIGNED = {"aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put"}
_COPIES = {"aten::_to_copy", "aten::copy_"}
_PYTHON_READS = {torch.Tensor.cpu: "Tensor.cpu", torch.Tensor.tolist: "Tensor.tolist"}


class Counts:
    """The number of dispatched operators, and host reads by their cause."""

    def __init__(self) -> None:
        self.operators = 0
        self.host_reads: Counter[str] = Counter()


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.operators += 1
        result = func(*args, **(kwargs or {}))
        if reason := host_read(func.name().split(".")[0], args, result):
            self.counts.host_reads[reason] += 1
        return result


class _Called(TorchFunctionMode):
    """Counts reads of tensors that are already on the CPU, which never reach the dispatcher."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _PYTHON_READS.get(func)
        if name is not None and args[0].device.type == "cpu":
            self.counts.host_reads[name] += 1
        return func(*args, **(kwargs or {}))


def host_read(name: str, args: Sequence[Any], result: Any) -> str | None:
    """Name the cause when a call of an operator makes the host wait, or return None."""
    if name in _READS:
        return name
    if name in _INDEXED and _has_mask(args[1]):
        return f"{name} by a mask"
    # a single value from the host is a masked fill; any other needs the mask's positions
    if name in _ASSIGNED and _has_mask(args[1]) and not _is_host_scalar(args[2]):
        return f"{name} by a mask"
    if name in _COPIES and isinstance(result, Tensor) and result.device.type == "cpu":
        source = args[1] if name == "aten::copy_" else args[0]
        if source.device.type != "cpu":
            return f"{name} to the host"
    return None


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _is_host_scalar(value: Tensor) -> bool:
    return value.numel() == 1 and value.device.type == "cpu"


def count(task: Callable[[], object]) -> Counts:
    """Call the task once; return its operators and host reads."""
    counts = Counts()
    with _Called(counts), _Dispatched(counts):
        task()
    return counts
