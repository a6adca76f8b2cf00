"""Published checkpoints (.pth) to import: changed bytes, and contents of any kind."""

from __future__ import annotations

import io
import random
import warnings
from functools import cache
from pathlib import Path

import torch

from benchmark.train.teacher_import import published_weights
from tests.fuzz import nasty


@cache
def seeds() -> tuple[bytes, ...]:
    weights = {"module.conv1.weight": torch.zeros(2, 3), "bn.num_batches_tracked": torch.tensor(3)}
    contents = (
        {"model": weights, "epoch": 240},
        weights,
        [weights],
        {"model": {1: torch.zeros(1), "a": 2.0}},
        {"model": {"a": torch.zeros(2, 2).to_sparse(), "b": torch.tensor([float("nan")])}},
        {"model": {"a": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}},
        {"model": {"a": torch.zeros(2, dtype=torch.complex64), "b": torch.zeros(0)}},
    )
    made = []
    for content in contents:
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            made.append(buffer.getvalue())
    return tuple(made)


def generate(rng: random.Random) -> bytes:
    content = rng.choice(seeds())
    return nasty.changed_bytes(rng, content) if rng.random() < 0.95 else content


def check(case: bytes, folder: Path) -> None:
    path = folder / "ckpt_epoch_240.pth"
    path.write_bytes(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in published_weights(path).items():
            assert isinstance(name, str)
            assert value.isfinite().all()
