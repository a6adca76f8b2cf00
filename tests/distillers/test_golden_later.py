"""Losses and gradients of the later methods on logits equal those computed with the released codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import distillers
from distillers import Outputs
from distillers.skd import inverse

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / "next_losses.json").read_text())["cases"]


def one_group(method: str, **renamed: str) -> Any:
    """Make a method whose fields are the settings of a case, under their own names or as `renamed`."""

    def make(settings: dict[str, Any]) -> distillers.Distiller:
        fields = {renamed.get(key, key): value for key, value in settings.items() if renamed.get(key) != ""}
        return distillers.create(method, **{method: {"warmup_epochs": 0, **fields}})

    return make


def ls_kd(settings: dict[str, Any]) -> distillers.Distiller:
    scales = {"sdd": {"scales": settings["scales"], "beta": settings["beta"]}} if "scales" in settings else {}
    kd = {"temperature": settings["temperature"], "weight": settings["weight"]}
    return distillers.create("sdd_ls_kd" if scales else "ls_kd", kd=kd, **scales)


def ls_dkd(settings: dict[str, Any]) -> distillers.Distiller:
    return distillers.create("ls_dkd", dkd={**settings, "warmup_epochs": 0})


def ls_mlkd(settings: dict[str, Any]) -> distillers.Distiller:
    first, *others = distillers.create("ls_mlkd").parameters()["mlkd"]["temperatures"]
    assert first == settings["temperature"]
    own = {"temperatures": (first, *others), "weight": settings["weight"], "ce_weight": settings["ce_weight"]}
    return distillers.create("ls_mlkd", mlkd=own)


MAKERS = {
    "kd_ls": ls_kd,
    "sdd_kd_ls": ls_kd,
    "dkd_ls": ls_dkd,
    "mlkd_ls": ls_mlkd,
    "ttm": one_group("ttm"),
    "wttm": one_group("wttm"),
    "normkd": one_group("normkd"),
    "skd": one_group("skd"),
    "crld": one_group("crld", cross="across", tau_weak="confidence_weak", tau_strong="confidence_strong"),
}


def tensor(values: Any, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_(grad)


def close(actual: torch.Tensor | None, expected: Any, tolerance: float = 1e-9) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach(), tensor(expected), rtol=tolerance, atol=tolerance)


def seen(values: torch.Tensor) -> Outputs:
    """Logits (B, K), or regions (B, R, K) with the first as the logits."""
    return Outputs(values[:, 0], values) if values.dim() == 3 else Outputs(values, values[:, None][:, :0])


def check(
    distiller: distillers.Distiller, case: dict[str, Any], epoch: int | torch.Tensor = 1, tolerance: float = 1e-9
) -> None:
    """Compare the loss, without cross-entropy unless the case has it, and its gradients."""
    views = {"student": "weak"} if "student" in case["inputs"] else {"student_weak": "weak", "student_strong": "strong"}
    students = {name: tensor(case["inputs"][name], grad=True) for name in views}
    losses = distiller.losses(
        {view: seen(students[name]) for name, view in views.items()},
        {view: seen(tensor(case["inputs"][name.replace("student", "teacher")])) for name, view in views.items()},
        torch.tensor(case["inputs"]["target"]),
        epoch,
    )
    if "cross-entropy included" not in case["code"]:
        losses.pop("ce")
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    close(total, case["expected"]["loss"], tolerance)
    for name, student in students.items():
        close(student.grad, case["expected"]["grad"][name], tolerance)


@pytest.mark.parametrize(("name", "number"), [(name, i) for name in MAKERS for i in range(len(CASES[name]))])
def test_losses_and_gradients(name: str, number: int) -> None:
    case = CASES[name][number]
    check(MAKERS[name](case["settings"]), case)


@pytest.mark.parametrize("case", CASES["sdd_dkd_ls_dskd"])
def test_dkd_ls_of_dskd(case: dict[str, Any]) -> None:
    """Its code has no weight per region, as SDD's control of equal weights, and adds small numbers in logarithms."""
    settings = case["settings"]
    own = {"temperature": settings["temperature"], "warmup_epochs": 0, "weight": 1}
    own |= {"alpha": settings["dkd_alpha"], "beta": settings["dkd_beta"]}
    sdd = {"scales": settings["scales"], "beta": settings["beta"], "weights": "mean"}
    check(distillers.create("sdd_ls_dkd", dkd=own, sdd=sdd), case, tolerance=1e-5)


@pytest.mark.parametrize("case", CASES["dist"])
def test_dist(case: dict[str, Any]) -> None:
    settings = case["settings"]
    weights = {name: settings[name] * settings["weight"] for name in ("beta", "gamma")}
    check(distillers.create("dist", dist={"temperature": settings["tau"], **weights}), case)


@pytest.mark.parametrize("case", [*CASES["rld"], *CASES["sdd_rld"]])
def test_rld(case: dict[str, Any]) -> None:
    settings = case["settings"]
    own = {
        name.removeprefix("rld_"): value for name, value in settings.items() if name not in ("standardize", "scales")
    }
    sdd = {}
    if "scales" in settings:
        sdd = {"sdd": {"scales": settings["scales"], "beta": settings["beta"]}}
        own["beta"] = settings["rld_beta"]
    method = "_".join([*(["sdd"] if sdd else []), *(["ls"] if settings["standardize"] else []), "rld"])
    check(distillers.create(method, rld={**own, "weight": 1, "warmup_epochs": 0}, **sdd), case)


@pytest.mark.parametrize("case", CASES["sld"])
@pytest.mark.parametrize("on_device", [False, True])
def test_sld(case: dict[str, Any], on_device: bool) -> None:
    """At the last epoch before and the first one after the student learns from itself too."""
    settings = dict(case["settings"])
    epoch = settings.pop("epoch")
    check(distillers.create("sld", sld=settings), case, torch.tensor(float(epoch)) if on_device else epoch)


@pytest.mark.parametrize("method", ["kd", "dkd", "nkd"])
@pytest.mark.parametrize("case", CASES["icd_gram"])
def test_icd(case: dict[str, Any], method: str) -> None:
    """The term is beside those of the scale-decoupled method, which are as they were."""
    settings, inputs = dict(case["settings"]), case["inputs"]
    sdd = {"scales": settings.pop("scales")}
    student, teacher = tensor(inputs["student"], grad=True), tensor(inputs["teacher"])
    batch = ({"weak": seen(student)}, {"weak": seen(teacher)}, torch.tensor(inputs["target"]), 3)
    losses = distillers.create(f"icd_{method}", icd=settings, sdd=sdd).losses(*batch)
    term = losses.pop("similarities")
    assert losses == distillers.create(f"sdd_{method}", sdd=sdd).losses(*batch)
    term.backward()
    close(term, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student"])


@pytest.mark.parametrize("rows", [1, 64])
def test_the_inverse_of_skd(rows: int) -> None:
    """Value and gradient are those of a factorization, where the trace is 80,000 times the least eigenvalue."""
    torch.manual_seed(0)
    columns = torch.randn(rows, rows, dtype=torch.float64)
    weights = torch.randn(rows, rows, dtype=torch.float64)
    found = []
    for invert in (inverse, torch.linalg.inv):
        matrix = (columns @ columns.T + 0.05 * torch.eye(rows, dtype=torch.float64)).requires_grad_()
        assert rows == 1 or matrix.trace() / torch.linalg.eigvalsh(matrix).min() > 5e4
        made = invert(matrix)
        (made * weights).sum().backward()
        found.append((made.detach(), matrix.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
