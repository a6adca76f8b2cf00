"""Paired differences and ranks of synthetic runs."""

from __future__ import annotations

import pytest

from reports.sections.significance import all_tests, ranking, significance
from tests.reports.frames import context, plan, rows, runs, shown, tables, words

KD, SDD = [75.0, 75.2, 75.4], [76.0, 76.3, 76.4]


def test_values_are_those_of_the_frame() -> None:
    blocks = significance(context([*runs("kd", KD), *runs("sdd_kd", SDD), *runs("vanilla", [70.0, 71.0, 70.0])]))
    found = {row["method"]: row for row in rows(tables(blocks)["significance"])}
    # differences 1.0, 1.1, 1.0: mean 1.0333, half-width 4.3027 * 0.057735 / sqrt(3) = 0.14342; t = 31
    assert found["sdd_kd"]["difference"] == 1.0333
    assert (found["sdd_kd"]["low"], found["sdd_kd"]["high"]) == (0.8899, 1.1768)
    assert found["sdd_kd"]["p"] == pytest.approx(1 - 31 / (31**2 + 2) ** 0.5)
    # the smaller of two: twice as large
    assert found["sdd_kd"]["p_holm"] == pytest.approx(2 * found["sdd_kd"]["p"])
    assert found["sdd_kd"]["reading"] == "higher"
    assert found["kd"]["base"] == "vanilla"
    text = shown(tables(blocks)["significance"])["SD-KD − KD"]
    assert text["mean"] == "+1.03"
    assert text["95% interval"] == "[+0.89, +1.18]"
    assert found["sdd_kd"]["run_ids"].split()[0] == "sdd_kd-shufflenet_v1-1"
    assert "hold for this teacher: resnet32x4" in words(blocks)


def test_no_evidence_is_a_result() -> None:
    blocks = significance(context([*runs("kd", [75.0, 76.0, 75.0]), *runs("sdd_kd", [75.5, 75.5, 75.5])]))
    assert shown(tables(blocks)["significance"])["SD-KD − KD"]["reading"] == "no evidence of a difference"
    assert "1: no evidence of a difference" in words(blocks)


@pytest.mark.parametrize("num", [1, 2])
def test_few_seeds_are_marked(num: int) -> None:
    blocks = significance(context([*runs("kd", KD[:num]), *runs("sdd_kd", SDD[:num])]))
    row = shown(tables(blocks)["significance"])["SD-KD − KD"]
    assert "†" in row["mean"]
    assert (row["95% interval"], row["p"], row["p, Holm"], row["detectable"]) == ("—", "—", "—", "—")
    assert row["reading"] == "too few seeds to test"


def test_equal_differences_are_no_test() -> None:
    blocks = significance(context([*runs("kd", [75.0, 75.0, 75.0]), *runs("sdd_kd", [76.0, 76.0, 76.0])]))
    assert shown(tables(blocks)["significance"])["SD-KD − KD"]["reading"] == "no spread to test by"


def test_missing_is_said_with_the_command() -> None:
    for made in (context(), context(runs("kd", KD)), context([*runs("kd", KD), *runs("sdd_kd", SDD, first=9)])):
        blocks = significance(made)
        assert not tables(blocks)
        assert "python -m benchmark.run cifar100" in words(blocks)


def test_nan_and_unfinished_runs_do_not_count() -> None:
    tracked = [*runs("kd", [*KD, float("nan")]), *runs("sdd_kd", [*SDD, 99.0])]
    tracked += runs("kd", [1.0], first=5, status="FAILED") + runs("sdd_kd", [99.0], first=5)
    (one,) = all_tests(plan(), context(tracked).frame)
    assert one.test.difference.num_seeds == 3


def test_ranks_are_over_whole_pairs() -> None:
    other = "wrn_40_2:shufflenet_v1"
    made = plan(methods=("kd", "sdd_kd"), pairs=("resnet32x4:shufflenet_v1", other))
    tracked = [*runs("kd", KD), *runs("sdd_kd", SDD), *runs("kd", KD, pair=other, name="other")]
    table = ranking(made, context(tracked, made).frame)
    assert table is not None
    assert [(row["method"], row["average_rank"], row["num_pairs"]) for row in rows(table)] == [
        ("sdd_kd", 1.0, 1),
        ("kd", 2.0, 1),
    ]
