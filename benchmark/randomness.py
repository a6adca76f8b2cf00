"""Random streams that are functions of a key: nothing in this project draws from a global stream."""

from __future__ import annotations

import hashlib

import torch


def stream_seed(*key: object) -> int:
    """Derive a 63-bit seed from the key alone: the same on every machine, in every process."""
    text = "/".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """Make a fresh CPU generator for the stream that the key names."""
    return torch.Generator().manual_seed(stream_seed(*key))
