"""Which differences a plan makes, and the published gain beside each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmark.analysis.gains import comparisons, published_gain
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan


def published(methods: Sequence[str], pair: str, data: str = "cifar100") -> dict[str, float | None]:
    """The published gains of the suite cifar100, on these images, by the words of the difference."""
    of = suite.load("cifar100").model_copy(update={"data": {"name": data}})
    made = make_plan(of, methods=methods, pairs=[pair])
    return {one.label: published_gain(made, one) for one in comparisons(made)}


def test_a_published_gain_is_of_one_table_the_first_that_prints_both() -> None:
    found = published(["vanilla", "kd", "mlkd", "ls_kd"], "resnet32x4:resnet8x4")
    # the first table that prints the student lacks MLKD and LS: LSKD's has 77.08 and 72.50, 76.62 and 73.33
    assert found["MLKD − student"] == pytest.approx(4.58)
    assert found["KD+LS − KD"] == pytest.approx(3.29)
    # SDD's Table 1: 76.30 and 74.07
    assert published(["kd", "sdd_kd"], "resnet32x4:shufflenet_v1") == {"SD-KD − KD": pytest.approx(2.23)}
    # each is printed, but never in one table
    assert published(["kd", "sdd_kd"], "resnet32x4:resnet8x4") == {"SD-KD − KD": None}


def test_a_published_gain_is_of_the_same_images() -> None:
    assert published(["kd", "sdd_kd"], "resnet32x4:shufflenet_v1", data="cub200") == {"SD-KD − KD": None}


def test_a_method_that_cannot_run_on_a_pair_is_compared_with_nothing() -> None:
    made = make_plan(
        suite.load("cifar100"), methods=["vanilla", "kd", "ofd"], pairs=["vgg13:mobilenet_v2", "vgg13:vgg8"]
    )
    assert [one.method for one in made.refused] == ["ofd"]
    labels = [(one.pair.student, one.label) for one in comparisons(made)]
    assert labels == [("mobilenet_v2", "KD − student"), ("vgg8", "KD − student"), ("vgg8", "OFD − student")]
