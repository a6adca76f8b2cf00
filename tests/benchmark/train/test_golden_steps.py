"""Whole training iterations equal those of the released code: forward, losses, backward, clipping and SGD, in float64.

Of every tensor of the student the golden file has the sum and the norm after two iterations.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import distillers
import models
from benchmark.config import Data, Recipe, RunConfig
from benchmark.train.heads import network_outputs
from benchmark.train.lane import Lane

STEPS = json.loads((Path(__file__).parents[2] / "golden" / "published_steps.json").read_text())
NUM_CLASSES, SIDE, BATCH = 100, 32, 8
NAMES = {"TEMPERATURE": "temperature", "T": "temperature", "LOSS.CE_WEIGHT": "ce_weight", "CE_WEIGHT": "ce_weight",
         "LOSS.KD_WEIGHT": "weight", "ALPHA": "alpha", "BETA": "beta", "WARMUP": "warmup_epochs"}  # fmt: skip


@cache
def filled(name: str, seed: int) -> models.Network:
    """A network with the golden file's weights, drawn in the order of its state; it is never trained."""
    network = models.create(name, NUM_CLASSES, SIDE).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            if value.ndim > 1:
                value.copy_(noise * math.sqrt(2 / (value.numel() / value.shape[0])))
            elif key.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            else:
                value.copy_((1 if key.endswith("weight") else 0) + 0.1 * noise)
    return network.eval()


@cache
def teacher_of(name: str) -> models.Network:
    """A teacher, which looks at every batch once."""
    network = filled(name, STEPS["seed"] + 1)
    network.forward_features = cache(network.forward_features)  # type: ignore[method-assign]
    return network


@cache
def batches() -> list[tuple[Tensor, Tensor]]:
    """Images and targets of both iterations, the same for every case."""
    rng = torch.Generator().manual_seed(STEPS["seed"] + 3)
    return [
        (
            torch.randn(BATCH, 3, SIDE, SIDE, generator=rng, dtype=torch.float64),
            torch.randint(NUM_CLASSES, (BATCH,), generator=rng),
        )
        for _ in range(2)
    ]


def parameters(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The case's hyperparameters; SD-NKD's are those that the released code gives it, and bear the names of DKD's."""
    base = case["method"].removeprefix("sdd_")
    own = {NAMES[key]: value for key, value in case["settings"].items()}
    if base == "nkd":
        released = distillers.create(case["method"]).parameters()["nkd"]
        assert released["gamma"] == own.pop("beta")
        assert own.pop("alpha") == 1
    return distillers.create(case["method"], **{base: own}, sdd={"scales": case["scales"]}).parameters()


@pytest.mark.parametrize(
    "case", STEPS["cases"], ids=[f"{c['student']}-{c['method']}-epoch {c['epoch']}" for c in STEPS["cases"]]
)
def test_two_iterations(case: dict[str, Any]) -> None:
    recipe = {name: case[name] for name in ("lr", "momentum", "weight_decay", "clip_norm")}
    config = RunConfig(
        data=Data(name="cifar100"),
        student=case["student"],
        teacher=case["teacher"],
        method=case["method"],
        parameters=parameters(case),
        recipe=Recipe(**recipe, milestones=(), batch_size=BATCH),
        repetition=1,
    )
    teacher = teacher_of(case["teacher"])
    lane = Lane(config, NUM_CLASSES, SIDE, torch.device("cpu"))
    lane.network.double().load_state_dict(filled(case["student"], STEPS["seed"] + 2).state_dict())
    for losses, (x_BCHW, target_B) in zip(case["losses"], batches(), strict=True):
        with torch.no_grad():
            shown = network_outputs(teacher, x_BCHW, lane.requests)
        lane.start_epoch(case["epoch"])
        lane.step({"weak": x_BCHW}, target_B, shown)
        lane.finish_epoch(case["epoch"])
        for name, value in losses.items():
            assert lane.history[-1][f"train/{name}"] == pytest.approx(value, rel=1e-11)
    state = {name: value for name, value in lane.network.state_dict().items() if value.is_floating_point()}
    assert list(state) == list(case["after"])
    for name, value in state.items():
        close(name, value, *case["after"][name])


def close(name: str, value: Tensor, total: float, norm: float) -> None:
    # where the terms of a sum cancel, its error is that of its terms
    assert float(value.norm()) == pytest.approx(norm, rel=1e-9), name
    assert float(value.sum()) == pytest.approx(total, abs=1e-9 * norm * math.sqrt(value.numel())), name
