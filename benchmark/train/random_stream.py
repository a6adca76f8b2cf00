"""A stream of random numbers of one's own, in place of torch's global one while a network draws from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class RandomStream:
    """Numbers that depend on a seed and on what was drawn before, not on other draws of the process."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device
        #: where the stream stands, as torch represents it: bytes, on the CPU
        self.state = first_state(seed, device)

    @contextlib.contextmanager
    def drawn_from(self) -> Iterator[None]:
        """Let torch draw from this stream; all draws before and after are independent of it."""
        outside = _global_state(self._device)
        _set_global_state(self.state, self._device)
        try:
            yield
        finally:
            self.state = _global_state(self._device)
            _set_global_state(outside, self._device)

    def has_advanced(self) -> bool:
        """Whether anything was drawn so far."""
        return not torch.equal(self.state, first_state(self._seed, self._device))


def first_state(seed: int, device: torch.device) -> Tensor:
    """Make the state of a device's generator at the start of a stream."""
    source = torch.Generator(device).manual_seed(seed)
    return source.get_state()


def _global_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_global_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
