"""Losses, gradients and pooled maps equal those computed with the released codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import distillers
from distillers import Outputs
from distillers.regions import pooling_matrix, region_logits

GOLDEN = Path(__file__).parents[1] / "golden"
LOSSES = json.loads((GOLDEN / "published_losses.json").read_text())
MLKD = json.loads((GOLDEN / "published_mlkd.json").read_text())
CASES = [(case, label) for case in LOSSES["logits"] for label in case["expected"]]


def tensor(values: Any, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_(grad)


def close(actual: torch.Tensor | None, expected: Any) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach(), tensor(expected), rtol=1e-9, atol=1e-9)


def read(label: str, scales: list[int]) -> distillers.Distiller:
    """Make the distiller that a label of the golden file describes."""
    method = label.split()[0].split(" ")[0]
    base = method.removeprefix("sdd_")
    numbers = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", label)}
    own = {"temperature": numbers.pop("T"), "weight": 1, "warmup_epochs": 0}
    groups = {"sdd": {"scales": scales, "beta": numbers.pop("beta")}} if method.startswith("sdd_") else {}
    if base == "nkd":
        own["keep_target"] = "kept" in label
    own.update({key.removeprefix("dkd_"): value for key, value in numbers.items()})
    return distillers.create(method, **{base: own}, **groups)


@pytest.mark.parametrize(("case", "label"), CASES, ids=[f"{case['scales']}-{label}" for case, label in CASES])
def test_losses_and_gradients(case: dict[str, Any], label: str) -> None:
    distiller = read(label, case["scales"])
    student, teacher, target = tensor(case["student"], True), tensor(case["teacher"]), torch.tensor(case["target"])
    loss = distiller.losses(
        {"weak": Outputs(student[:, 0], student)}, {"weak": Outputs(teacher[:, 0], teacher)}, target, 1
    )["kd"]
    loss.backward()
    close(loss, case["expected"][label]["loss"])
    close(student.grad, case["expected"][label]["grad"])


@pytest.mark.parametrize("case", MLKD["cases"])
def test_mlkd(case: dict[str, Any]) -> None:
    assert case["temperature"] == 4.0
    distiller = distillers.create("mlkd", mlkd={"ce_weight": case["ce_weight"], "weight": case["kd_weight"]})
    weak, strong = tensor(case["student_weak"], True), tensor(case["student_strong"], True)
    none = weak.new_zeros(len(weak), 0, weak.shape[1])
    losses = distiller.losses(
        {"weak": Outputs(weak, none), "strong": Outputs(strong, none)},
        {view: Outputs(tensor(case[f"teacher_{view}"]), none) for view in ("weak", "strong")},
        torch.tensor(case["target"]),
        1,
    )
    total = sum(losses.values(), start=tensor(0.0))
    total.backward()
    for term, published in {"ce": "ce", "kd": "kd", "class": "cc", "batch": "bc"}.items():
        close(losses[term], case["losses"][f"loss_{published}"])
    close(total, case["total"])
    close(weak.grad, case["grad_weak"])
    close(strong.grad, case["grad_strong"])


@pytest.mark.parametrize("case", LOSSES["pyramid"], ids=lambda case: f"side {len(case['map'][0][0])}")
@pytest.mark.parametrize("linear", [True, False])
def test_pooled_maps(case: dict[str, Any], linear: bool) -> None:
    pooled = region_logits(tensor(case["map"]), lambda x: x, linear, tuple(case["scales"]), "from_4x4")
    close(pooled, case["pooled"])


@pytest.mark.parametrize("side", [1, 2, 4, 5, 7, 8, 14])
@pytest.mark.parametrize("scales", [(1, 2, 4), (1, 4), (2, 4), (1, 3), (1, 2, 4, 8), (16,)])
@pytest.mark.parametrize("grids", ["map", "from_4x4"])
def test_regions_are_pooled_cells_classified(side: int, scales: tuple[int, ...], grids: Any) -> None:
    generator = torch.Generator().manual_seed(side)
    maps = torch.randn(2, 3, side, side + 1, generator=generator, dtype=torch.float64)
    head = torch.nn.Linear(3, 5, dtype=torch.float64)
    cells = torch.nn.functional.adaptive_avg_pool2d(maps, 4)
    expected = [
        torch.nn.functional.adaptive_avg_pool2d(cells if grids == "from_4x4" and m in (1, 2, 4) else maps, m)
        for m in scales
    ]
    logits = head(torch.cat([pooled.flatten(2) for pooled in expected], dim=2).transpose(1, 2))
    for linear in (True, False):
        torch.testing.assert_close(region_logits(maps, head, linear, scales, grids), logits, rtol=1e-12, atol=1e-12)


def test_pooling_matrix_is_constant_and_outlives_inference_mode() -> None:
    key = (3, 5, (1, 2), "map", torch.float64, torch.device("cpu"))
    with torch.inference_mode():
        matrix = pooling_matrix(*key)
    assert matrix is pooling_matrix(*key)
    assert not matrix.is_inference()
    assert not matrix.requires_grad
    torch.testing.assert_close(matrix.sum(1), torch.ones(5, dtype=torch.float64))
