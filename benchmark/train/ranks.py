"""Data parallel: several processes (ranks) train one cohort together, each on a share of every minibatch.

Every rank holds every lane and takes the same steps. A step's gradients are averaged over the ranks, weighted by their
images, in one all-reduce per lane; running statistics of batch norms are averaged with them, so that all ranks always
hold the same networks. Rank 0 alone decides, reports and writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import Store
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.errors import UserError

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)

#: after which a rank that waits for another gives up: ranks wait while the first one prepares data, asks a tracking
#: store or has nothing to train; one that dies is noticed at once
TIMEOUT = timedelta(days=1)


class LostContact(RuntimeError):
    """Another rank has ended."""


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Call something that all ranks take part in. Raises LostContact when one has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LostContact(str(error)) from error


@dataclass(frozen=True)
class Ranks:
    """The processes that train a cohort, as one of them sees them; alone, every method returns what it is given."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process decides, reports and writes."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there are other ranks."""
        return self.size > 1

    def share(self, count: int) -> slice:
        """This rank's part of `count` images: contiguous, no image in two parts or in none, sizes equal to one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def agreed(self, ask: Callable[[], T]) -> T:
        """Ask rank 0 and give every rank its answer; an exception of rank 0 is raised in all of them."""
        if not self.are_several:
            return ask()
        answer: list[object] = [None, None]
        if self.is_first:
            try:
                answer[0] = ask()
            except Exception as error:
                answer[1] = error
        with _together():
            distributed.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if isinstance(answer[1], Exception):
            raise answer[1]
        return cast(T, answer[0])

    def total(self, x: Tensor) -> Tensor:
        """Sum a tensor over the ranks."""
        if not self.are_several:
            return x
        summed = x.clone()
        with _together():
            distributed.all_reduce(summed)
        return summed

    def gathered(self, x: Tensor) -> Tensor:
        """Stack a tensor of every rank, on the CPU: (R, ...)."""
        if not self.are_several:
            return x.cpu()[None]
        parts = [torch.empty_like(x, device="cpu") for _ in range(self.size)]
        with _together():
            distributed.all_gather(parts, x.cpu())
        return torch.stack(parts)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter], statistics: Iterable[Tensor], num_images: int) -> None:
        """Average gradients and statistics over the ranks in place, each rank weighted by its images.

        Where every rank's loss is the mean over its images, the gradients become those of the mean over all images. A
        parameter that only some ranks' losses depend on has a gradient of 0 from the others; one of none keeps none.
        """
        if not self.are_several:
            return
        trained = list(parameters)
        missing = [number for number, p in enumerate(trained) if p.grad is None]
        averaged = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        found = averaged[0].new_ones(len(trained) + 1)
        if missing:
            found[missing] = 0
        averaged += [*statistics, found]
        flat = torch.cat([x.reshape(-1) for x in averaged]) * num_images
        with _together():
            distributed.all_reduce(flat)
        flat /= flat[-1].clone()
        parts = torch.split(flat, [x.numel() for x in averaged])
        torch._foreach_copy_(averaged, [part.view_as(x) for part, x in zip(parts, averaged, strict=True)])
        for number in missing:
            if found[number] > 0:
                trained[number].grad = averaged[number]


#: a process that trains by itself
ALONE = Ranks()


def running_statistics(modules: Iterable[nn.Module | None]) -> list[Tensor]:
    """Running means and variances of batch norms, which differ from rank to rank until they are averaged."""
    found = []
    for module in modules:
        for part in () if module is None else module.modules():
            if isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm):
                found += [x for x in (part.running_mean, part.running_var) if x is not None]
    return found


def synchronized(network: N, device: torch.device) -> N:
    """Make batch norms compute mean and variance over the images of all ranks. Raises UserError on a CPU."""
    if device.type != "cuda":
        raise UserError("sync_batch_norm: torch has synchronised batch norms for GPUs only; leave it out on a CPU")
    return cast(N, nn.SyncBatchNorm.convert_sync_batchnorm(network))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def connected(rank: int, size: int, store: Store | None = None) -> Iterator[Ranks]:
    """Join the other ranks in `store`, or by the variables that torchrun sets; leave them at the end."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if store is not None:  # all on this machine: gloo must not look for the address of its name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()
