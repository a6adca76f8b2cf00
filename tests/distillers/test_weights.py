"""What a region weighs: the defaults as they always were, and the two controls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import distillers
from distillers import Distiller
from distillers.kd import kd
from distillers.regions import Weights, region_weights, shuffled_regions
from distillers.sdd import ScaleDecoupled
from tests.distillers.batches import random_batch

CPU = torch.device("cpu")
WEIGHTS: tuple[Weights, ...] = ("region", "mean", "shuffled")


def some_regions(batch: int = 6, regions: int = 21) -> Tensor:
    """Which regions are complementary: more of them in later rows."""
    draws = torch.rand(batch, regions, generator=torch.Generator().manual_seed(0))
    return draws < torch.linspace(0.1, 0.9, batch)[:, None]


def sdd_kd(**fields: Any) -> Distiller:
    return distillers.create("sdd_kd", sdd=fields)


def distilled(distiller: Distiller, dtype: torch.dtype = torch.float64) -> Tensor:
    return distiller.losses(*random_batch(distiller, dtype=dtype), 1)["kd"].detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 2.0, 7.7])
def test_the_defaults_are_the_weights_of_before_bit_for_bit(beta: float, dtype: torch.dtype) -> None:
    complementary_BR = some_regions()
    before = 1 + (beta - 1) * complementary_BR.to(dtype)
    assert torch.equal(region_weights(complementary_BR, beta, dtype), before)
    fields = sdd_kd().parameters()["sdd"]
    assert (fields["consistent"], fields["weights"]) == (1.0, "region")


def test_each_kind_of_region_alone_adds_up_to_both() -> None:
    only_complementary, only_consistent, both, as_is = (
        distilled(sdd_kd(consistent=consistent, beta=beta)) for consistent, beta in ((0, 1), (1, 0), (1, 1), (1, 2))
    )
    assert only_complementary > 0 and only_consistent > 0
    torch.testing.assert_close(only_complementary + only_consistent, both)
    torch.testing.assert_close(2 * only_complementary + only_consistent, as_is)


@pytest.mark.parametrize("weights", ["mean", "shuffled"])
def test_controls_equal_the_method_where_all_regions_weigh_the_same(weights: str) -> None:
    torch.testing.assert_close(distilled(sdd_kd(beta=1, weights=weights)), distilled(sdd_kd(beta=1)))
    assert not distilled(sdd_kd(beta=4, weights=weights)).isclose(distilled(sdd_kd(beta=4)))


def test_mean_weights_are_those_of_the_batch() -> None:
    complementary_BR = some_regions()
    weight_BR = region_weights(complementary_BR, 4.0, torch.float64, 0.5, "mean")
    share = complementary_BR.double().mean().item()
    assert weight_BR.shape == complementary_BR.shape
    assert weight_BR.unique().numel() == 1
    assert weight_BR[0, 0].item() == pytest.approx(4.0 * share + 0.5 * (1 - share))


def test_shuffled_weights_are_a_samples_own_on_other_regions() -> None:
    complementary_BR = some_regions()
    own, shuffled = (region_weights(complementary_BR, 4.0, torch.float64, weights=w) for w in ("region", "shuffled"))  # type: ignore[arg-type]
    assert torch.equal(own.sort(1).values, shuffled.sort(1).values)
    assert not torch.equal(own, shuffled)


@pytest.mark.parametrize("regions", [5, 17, 21, 85])
def test_permutations_depend_on_row_and_number_of_regions_only(regions: int) -> None:
    torch.manual_seed(0)
    large, small = (shuffled_regions(batch, regions, CPU) for batch in (64, 7))
    shuffled_regions.cache_clear()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(shuffled_regions(64, regions, CPU), large)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(large[:7], small)
    assert torch.equal(large.sort(1).values, torch.arange(regions).expand(64, regions))
    # rows differ among each other, and most regions move
    assert len({tuple(row) for row in large.tolist()}) > 40
    assert (large == torch.arange(regions)).double().mean() < 0.4


def test_permutations_are_made_once_for_each_device() -> None:
    assert shuffled_regions(8, 21, CPU) is shuffled_regions(8, 21, CPU)
    assert shuffled_regions(8, 21, torch.device("meta")).device.type == "meta"


def test_a_permutation_made_in_inference_mode_can_be_trained_with() -> None:
    shuffled_regions.cache_clear()
    distiller = sdd_kd(weights="shuffled")
    with torch.inference_mode():
        distiller.losses(*random_batch(distiller), 1)
    student, teacher, target = random_batch(distiller)
    distiller.losses(student, teacher, target, 1)["kd"].backward()
    assert student["weak"].regions.grad is not None


class Recorded(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_step_reads_nothing_and_makes_no_tensor_from_python_values(weights: str) -> None:
    """On tensors without values, where a host read raises: what a CUDA graph can capture."""
    distiller = distillers.create("sdd_kd", sdd={"weights": weights, "consistent": 0.5})
    assert isinstance(distiller, ScaleDecoupled)
    student, teacher, target = random_batch(distiller)
    seen, taught = (views["weak"].map_all(lambda x: x.detach().to("meta")) for views in (student, teacher))
    target_B = target.to("meta")
    seen.regions.requires_grad_()

    def step() -> None:
        distiller.instance(lambda s, t, y: kd(s, t, 4.0), seen, taught, target_B).mean().backward()

    step()
    with Recorded() as recorded:
        step()
    made = {
        "lift_fresh",
        "randperm",
        "randperm.generator",
        "scalar_tensor",
        "_local_scalar_dense",
        "nonzero",
        "_to_copy",
    }
    # a truth value becomes a number on the device itself
    recorded.seen["_to_copy"] -= 1
    assert recorded.seen["mul.Tensor"] > 0
    assert not made & (+recorded.seen).keys(), recorded.seen


@pytest.mark.gpu
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_cuda_graph_captures_the_weights(weights: Weights) -> None:
    complementary_BR = some_regions().cuda()
    expected = region_weights(complementary_BR, 4.0, torch.float32, 0.5, weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = region_weights(complementary_BR, 4.0, torch.float32, 0.5, weights)
    graph.replay()
    assert torch.equal(captured, expected)
    on_cpu = region_weights(some_regions(), 4.0, torch.float32, 0.5, weights)
    torch.testing.assert_close(captured.cpu(), on_cpu)
