"""Checkpoints that carry their version and checksum; the one before the last is kept beside it."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark import files
from benchmark.errors import UserError

#: raise it whenever a checkpoint of before cannot be read as one of now
VERSION = 1
_NAME = b"distillation checkpoint "
_MAGIC = _NAME + f"{VERSION}\n".encode()
_HEAD = len(_MAGIC) + 64 + 1


def previous(path: Path) -> Path:
    """Path of the checkpoint before the last."""
    return path.with_name(f"{path.name}.previous")


def delete(path: Path) -> None:
    """Delete the last checkpoint and the one before."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, headed by its sha256; the last becomes the one before.

    Raises:
        UserError: when it cannot be written; the last checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    if path.exists():
        _keep(path)
    files.write(path, _MAGIC, hashlib.sha256(payload).hexdigest().encode(), b"\n", payload)


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
    say(f"{fault}; the one before it is used, after epoch {state['epochs_done']}")
    return state


def _read(path: Path) -> dict[str, Any]:
    """Read one checkpoint. Raises UserError when it is damaged, of another version, or no checkpoint."""
    content = path.read_bytes()
    head, payload = content[:_HEAD], memoryview(content)[_HEAD:]
    version = re.match(_NAME + rb"(\d{1,9})\n", head)
    if version and int(version[1]) != VERSION:
        raise UserError(f"checkpoint {path} is of version {int(version[1])}, and this program reads version {VERSION}")
    if head != _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({len(content)} bytes; its checksum does not match)"
        )
    try:
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        int(state["epochs_done"]), str(state["signature"])
    except Exception as error:  # torch raises many kinds
        raise UserError(f"checkpoint {path} does not hold what it should ({type(error).__name__}: {error})") from error
    return dict(state)
