"""Random streams that are functions of a key: nothing in this project draws from a global stream."""

from __future__ import annotations

import hashlib

import torch


def stream_seed(*key: object) -> int:
    """Return a 63-bit seed that is a function of the key alone: the same on every machine, in every process."""
    text = "/".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """Return a fresh CPU generator for the stream named by the key."""
    return torch.Generator().manual_seed(stream_seed(*key))
