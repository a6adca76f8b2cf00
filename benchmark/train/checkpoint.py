"""Checkpoints that carry their own checksum."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from benchmark import files
from benchmark.errors import UserError

_MAGIC = b"distillation checkpoint 1\n"
_HEAD = len(_MAGIC) + 64 + 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, headed by the sha256 of its content.

    Raises:
        UserError: when it cannot be written; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    files.write(path, _MAGIC, hashlib.sha256(payload).hexdigest().encode(), b"\n", payload)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: when the file is truncated, damaged, or not a checkpoint. It is left unchanged.
    """
    content = path.read_bytes()
    payload = memoryview(content)[_HEAD:]
    if content[:_HEAD] != _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({len(content)} bytes; its checksum does not match);"
            " nothing was overwritten: restore it, or delete it to start that run again"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    return state
