"""The reference computes what ours computes: without that, their times could not be compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.perf import reference
from benchmark.perf.base import Setting
from benchmark.perf.reference import Trainer, losses_of
from benchmark.perf.workload import COHORT, Cohort, Pair, random_batch, random_teacher, run_config
from benchmark.train.lane import Lane
from distillers import Outputs
from tests.distillers.batches import random_batch as random_outputs

METHODS = ("kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "sdd_nkd")
SMALL = Setting(torch.device("cpu"), 1, quick=True, batch_size=8, num_classes=7)
PAIR = Pair("resnet8", "resnet8_half")
STEPS = 3


def as_reference(outputs: Outputs) -> tuple[Tensor, Tensor | None]:
    """Logits, and regions as (B, K, R)."""
    regions = outputs.regions.permute(0, 2, 1) if outputs.regions.shape[1] else None
    return outputs.logits, regions


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_and_gradients_equal_ours(method: str, seed: int) -> None:
    config = run_config(PAIR, method)
    distiller = config.distiller()
    student, teacher, target = random_outputs(distiller, seed=seed, batch=9)
    epoch = 3  # inside the warm-up of those that have one
    ours = distiller.losses(student, teacher, target, epoch)
    theirs = losses_of(config, as_reference(student["weak"]), as_reference(teacher["weak"]), target, epoch)
    assert ours.keys() == theirs.keys()
    leaves = [one for one in (student["weak"].logits, student["weak"].regions) if one.numel()]
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-10, atol=1e-12)
        gradients = [
            torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True) for term in (theirs[name], value)
        ]
        for a, b in zip(*gradients, strict=True):
            zero = torch.zeros(())
            torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-9, atol=1e-12)


def test_some_regions_are_complementary_in_what_is_compared() -> None:
    """Else the weights of regions would not have been compared."""
    distiller = run_config(PAIR, "sdd_kd").distiller()
    student, teacher, target = random_outputs(distiller, batch=9)
    fraction = distiller.diagnostics(student, teacher, target)["complementary_fraction"]
    assert 0.1 < float(fraction) < 0.9


def test_the_weight_of_complementary_regions_is_the_runs_own() -> None:
    distiller = run_config(PAIR, "sdd_kd", {"sdd": {"beta": 4}})
    student, teacher, target = random_outputs(distiller.distiller(), batch=9)
    shown = as_reference(student["weak"]), as_reference(teacher["weak"])
    at_4 = losses_of(distiller, *shown, target, 1)["kd"]
    at_2 = losses_of(run_config(PAIR, "sdd_kd"), *shown, target, 1)["kd"]
    torch.testing.assert_close(at_4, distiller.distiller().losses(student, teacher, target, 1)["kd"])
    assert at_4.item() > 1.05 * at_2.item()


@pytest.mark.parametrize("method", ["sdd_kd", "sdd_dkd", "sdd_nkd", "nkd"])
def test_a_few_steps_give_the_same_student_in_fp64(method: str) -> None:
    config = run_config(PAIR, method)
    x, target = random_batch(SMALL)
    x = x.double()
    teacher = random_teacher(PAIR.teacher, SMALL.num_classes, SMALL.image_size).double()
    trainer = Trainer(config, teacher, SMALL.num_classes, SMALL.image_size, SMALL.device)
    lane = Lane(config, SMALL.num_classes, SMALL.image_size, SMALL.device)
    trainer.student.double()
    lane.network.double()
    lane.start_epoch(1)
    begun = {name: value.clone() for name, value in lane.network.named_parameters()}
    with torch.no_grad():
        logits, regions = reference.forward(teacher, x, trainer.scales)
    shown = Outputs(logits, logits[:, None][:, :0] if regions is None else regions.permute(0, 2, 1))
    for _ in range(STEPS):
        trainer.step(x, target, 1)
        lane.step({"weak": x.to(memory_format=torch.channels_last)}, target, {lane.requests[0]: shown})
    moved = 0.0
    theirs = dict(trainer.student.named_parameters())
    for name, value in lane.network.named_parameters():
        torch.testing.assert_close(theirs[name], value, rtol=1e-9, atol=1e-11, msg=name)
        moved = max(moved, float((value - begun[name]).detach().abs().max()))
    assert moved > 1e-3


def test_a_step_of_the_whole_loop_gives_the_same_student_in_fp32() -> None:
    """With our teacher, folded and in another memory layout."""
    config = run_config(PAIR)
    ours = Cohort(SMALL, [config])
    x, target = random_batch(SMALL)
    teacher = random_teacher(PAIR.teacher, SMALL.num_classes, SMALL.image_size)
    trainer = Trainer(config, teacher, SMALL.num_classes, SMALL.image_size, SMALL.device)
    with torch.no_grad():
        logits, regions = reference.forward(teacher, x, trainer.scales)
    assert regions is not None
    shown = ours.outputs()[ours.requests[0]]
    torch.testing.assert_close(shown.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shown.regions, regions.permute(0, 2, 1), rtol=1e-4, atol=1e-4)
    for _ in range(STEPS):
        ours.step()
        trainer.step(x, target, 1)
    for (name, a), b in zip(trainer.student.named_parameters(), ours.lanes[0].network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
    ours.lanes[0].finish_epoch(1)
    row = ours.lanes[0].history[-1]
    assert row["train/loss"] == pytest.approx(float(trainer.meters["loss"].mean), rel=1e-4)
    assert row["train/top1"] == pytest.approx(float(trainer.meters["top1"].mean), abs=1e-3)
    assert trainer.ce / STEPS == pytest.approx(row["train/loss_ce"], rel=1e-4)


def test_a_random_teacher_is_always_the_same_and_its_logits_stay_small() -> None:
    """Batch norms that know nothing would let a deep residual network overflow in bf16 and saturate every softmax."""
    x, _ = random_batch(SMALL)
    networks = [random_teacher("resnet20", 7, 32) for _ in range(2)]
    with torch.no_grad():
        first, second = (network(x) for network in networks)
    assert torch.equal(first, second)
    assert float(first.abs().max()) < 20
    normalised = networks[0].bn1(networks[0].conv1(x)).std(dim=(0, 2, 3))
    assert float((normalised - 1).detach().abs().max()) < 0.15
    assert not networks[0].training


def test_a_cohort_has_the_asked_number_of_different_students() -> None:
    assert len({(method, str(values)) for method, values in COHORT}) == len(COHORT) == 8
