"""Weights rounded to fp16, so that they travel in half the bytes. A rounded teacher is another teacher."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from benchmark.config import Data
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train import teacher_store
from benchmark.train.batches import splits
from benchmark.train.teacher_store import Manifest


def rounded(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Round floating-point tensors to fp16. Raises UserError, with the name, for values that fp16 does not hold."""
    made = {}
    for name, value in weights.items():
        made[name] = value.half() if value.is_floating_point() else value
        if not made[name].isfinite().all():
            raise UserError(
                f"{source}: {name} has values up to {value.abs().max().item():.3g}, and fp16 ends at"
                f" {torch.finfo(torch.float16).max:,.0f}: pack it without --fp16"
            )
    return made


def rounded_student(file: Path, source: str) -> bytes:
    """A student's weights, rounded, as their file holds them."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    content: bytes = serialize(rounded(deserialize(file.read_bytes()), source), metadata=metadata)
    return content


def rounded_teacher(
    folder: Path, manifest: Manifest, data: DataSet, config: Data, device: torch.device
) -> tuple[Manifest, bytes]:
    """Round a stored teacher and measure the accuracy of exactly the rounded weights; return manifest and weights.

    It is measured on the test images that `config` chooses, as the teacher was. One that is rounded already stays.
    """
    file = manifest.file(folder)
    weights = rounded(teacher_store.load_weights(file), str(file.path))
    content = teacher_store.content_of(manifest.model, weights)
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == manifest.checksum:
        return manifest, content
    network = teacher_store.network_with(manifest.model, weights, data, str(file.path))
    changed = {
        "checksum": checksum,
        "test_top1": teacher_store.measure(network, data, device, splits(data, config).test),
        "best_test_top1": None,  # that of an epoch whose weights were not rounded
        "rounded_from": manifest.checksum,
    }
    return manifest.model_copy(update=changed), content
