"""Checkpoints that carry their version and checksum; the one before the last is kept beside it.

A file is a line with the version, a line with the sha256 of the rest, and the rest: safetensors, whose tensors have
flat names (`network/fc.weight`), with all other values as JSON in their one entry of metadata. JSON gives every finite
float back to the bit. Files of version 1, which torch wrote, are still read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from benchmark import files
from benchmark.errors import UserError

#: raise it whenever a checkpoint of before cannot be read as one of now
VERSION = 2
_NAME = b"distillation checkpoint "
_MAGIC = _NAME + f"{VERSION}\n".encode()
_HEAD = re.compile(_NAME + rb"(\d{1,9})\n(.{64})\n", re.DOTALL)
#: the entry of metadata that holds what is no tensor
_PLAIN = "values"


def previous(path: Path) -> Path:
    """Path of the checkpoint before the last."""
    return path.with_name(f"{path.name}.previous")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, groups of tensors and plain values; the last becomes the one before.

    Raises:
        UserError: when it cannot be written; the last checkpoint is untouched.
    """
    payload = _packed(state)
    write(path, _MAGIC, hashlib.sha256(payload).hexdigest().encode(), b"\n", payload)


def write(path: Path, *parts: bytes) -> None:
    """Write the content of a checkpoint; the last becomes the one before. Raises UserError as `save` does."""
    if path.exists():
        _keep(path)
    files.write(path, *parts)


def _keep(path: Path) -> None:
    """Make the last checkpoint the one before as well, so that there is a whole one at any moment."""
    link = path.with_name(f"{path.name}.link")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
    link.replace(previous(path))


def restore(path: Path) -> None:
    """Put the checkpoint before the last in the place of the last."""
    previous(path).replace(path)


def load(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Read the last checkpoint to the CPU; the one before, and `say` so, when the last is damaged.

    Raises:
        UserError: when neither can be read. Both are left unchanged.
    """
    way_out = "nothing was overwritten: restore it, or delete it to start that run again"
    try:
        return _read(path)
    except UserError as error:
        fault = str(error)
        if not previous(path).exists():
            raise UserError(f"{fault}; {way_out}") from error
    try:
        state = _read(previous(path))
    except UserError as error:
        raise UserError(f"{fault}, and {error}; {way_out}") from error
    say(f"{fault}; the one before it is used, {place(state)}")
    return state


def place(state: Mapping[str, Any]) -> str:
    """Say where a training stands: `after epoch 3`, or `in epoch 4, after 120 of 391 steps`."""
    return place_of(state["epochs_done"], state["steps_done"], state["steps_per_epoch"])


def place_of(epochs_done: int, steps_done: int, steps_per_epoch: int) -> str:
    """Say where a training stands that has done so many epochs, and so many steps of the next."""
    if not steps_done:
        return f"after epoch {epochs_done}"
    return f"in epoch {epochs_done + 1}, after {steps_done:,} of {steps_per_epoch:,} steps"


def _read(path: Path) -> dict[str, Any]:
    """Read one checkpoint. Raises UserError when it is damaged, of a later version, or no checkpoint."""
    content = path.read_bytes()
    version = re.match(_NAME + rb"(\d{1,9})\n", content)
    if version and not 1 <= int(version[1]) <= VERSION:
        raise UserError(
            f"checkpoint {path} is of version {int(version[1])}, and this program reads versions up to {VERSION}"
        )
    head = _HEAD.match(content)
    payload = memoryview(content)[head.end() if head else 0 :]
    if head is None or head[2] != hashlib.sha256(payload).hexdigest().encode():
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({len(content)} bytes; its checksum does not match)"
        )
    try:
        state = _unpacked(payload) if int(head[1]) == VERSION else _of_version_1(payload)
        # what is in every checkpoint, and what none of before had: it was written at an epoch's end
        int(state["epochs_done"]), str(state["signature"])
        state["steps_done"], state["steps_per_epoch"] = (
            int(state.get(name, 0)) for name in ("steps_done", "steps_per_epoch")
        )
    except Exception as error:  # torch raises many kinds
        raise UserError(f"checkpoint {path} does not hold what it should ({type(error).__name__}: {error})") from error
    return state


def _packed(state: Mapping[str, Any]) -> bytes:
    """Write tensors under flat names, and everything else as JSON beside them."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, dict) and value and all(isinstance(one, Tensor) for one in value.values()):
            tensors |= {f"{name}/{key}": one.contiguous() for key, one in value.items()}
        else:
            plain[name] = value
    content: bytes = serialize(tensors, metadata={_PLAIN: json.dumps(plain)})
    return content


def _unpacked(payload: memoryview) -> dict[str, Any]:
    """Restore what `_packed` wrote."""
    length = int.from_bytes(payload[:8], "little")
    state: dict[str, Any] = json.loads(json.loads(bytes(payload[8 : 8 + length]))["__metadata__"][_PLAIN])
    for name, value in deserialize(bytes(payload)).items():
        group, _, key = name.partition("/")
        if key:
            state.setdefault(group, {})[key] = value
        else:
            state[group] = value
    return state


def _of_version_1(payload: memoryview) -> dict[str, Any]:
    return dict(torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu"))
