"""Against numbers worked out by hand and from printed t tables."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from benchmark.analysis.stats import (
    average_ranks,
    benjamini_hochberg,
    mean_std,
    minimum_detectable_effect,
    paired_difference,
    paired_p,
    seeds_to_detect,
    t_interval,
)


def test_mean_std_divides_by_n_minus_one() -> None:
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([1.0, 3.0])[1] == pytest.approx(2**0.5)
    assert mean_std([1.5]) == (1.5, None)
    with pytest.raises(ValueError, match="no values"):
        mean_std([])


def test_t_interval() -> None:
    # t_{0.975, 2} = 4.3027, std 1, n 3: half-width 4.3027 / sqrt(3) = 2.4841
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert t_interval([1.0, 2.0]) is None


def test_detectable_effect_is_that_of_printed_power_tables() -> None:
    # paired t test, two-sided alpha 0.05, power 0.8: d = 0.5 needs 34 pairs (33.4), d = 1 needs 10 (9.94)
    assert minimum_detectable_effect(1.0, 34) == pytest.approx(0.495, abs=5e-4)
    assert minimum_detectable_effect(1.0, 10) == pytest.approx(0.996, abs=5e-4)
    # three seeds see nothing under 3.3 standard deviations (80.04% of 10^6 simulated experiments find it)
    assert minimum_detectable_effect(0.3, 3) == pytest.approx(0.3 * 3.264, abs=1e-3)
    assert minimum_detectable_effect(1.0, 2) is None


def test_paired_difference_uses_the_seeds_that_both_have() -> None:
    a = pd.Series({1: 75.0, 2: 76.0, 3: 77.0, 5: 99.0})
    b = pd.Series({3: 75.0, 2: 75.0, 1: 74.0, 4: 0.0})
    found = paired_difference(a, b)
    assert found is not None
    assert found.differences == (1.0, 1.0, 2.0)
    assert found.num_seeds == 3
    assert found.mean == pytest.approx(4 / 3)
    assert found.std == pytest.approx(0.57735, abs=1e-5)
    # deviations (-1, 0, 1) and (-2/3, 1/3, 1/3): 1 / sqrt(2 * 2/3)
    assert found.correlation == pytest.approx(0.8660, abs=1e-4)


def test_one_seed_has_no_spread_and_two_no_correlation() -> None:
    found = [paired_difference(pd.Series([2.0, 3.0][:num]), pd.Series([1.0, 1.5][:num])) for num in (1, 2)]
    assert [(one.std, one.correlation) for one in found if one] == [(None, None), (pytest.approx(0.5**1.5), None)]


def test_no_spread_gives_no_correlation() -> None:
    found = paired_difference(pd.Series([2.0, 2.0, 2.0]), pd.Series([1.0, 2.0, 3.0]))
    assert found is not None
    assert found.correlation is None


def test_nothing_shared() -> None:
    assert paired_difference(pd.Series({1: 2.0}), pd.Series({2: 1.0})) is None
    assert paired_difference(pd.Series({1: 2.0}), pd.Series(dtype=float)) is None
    assert paired_difference(pd.Series({1: float("nan")}), pd.Series({1: 1.0})) is None


def test_seeds_to_detect_is_the_first_number_at_which_an_effect_is_detectable() -> None:
    # the printed tables above: d = 0.5 needs 34 pairs, d = 1 needs 10
    assert seeds_to_detect(0.5, 1.0, 0.05, 100) == 34
    assert seeds_to_detect(1.0, 1.0, 0.05, 100) == 10
    assert seeds_to_detect(3.3, 1.0, 0.05, 100) == 3
    assert seeds_to_detect(0.5, 1.0, 0.05, 33) is None
    # a stricter test needs more
    assert (seeds_to_detect(1.0, 1.0, 0.005, 100) or 0) > 10


def test_paired_p() -> None:
    # Student's own sleep data (1908): differences of ten patients, t = 4.0621 with 9 degrees of freedom, p = 0.002833
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert paired_p(sleep) == pytest.approx(0.002833, abs=5e-7)
    # 1, 1, 2: t = (4/3) / (0.57735 / sqrt 3) = 4; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert paired_p([1.0, 1.0, 2.0]) == pytest.approx(1 - 4 / 18**0.5)
    assert paired_p([1.0, 2.0]) is None
    assert paired_p([1.0, 1.0, 1.0]) is None
    assert paired_p([76.3 - 75.3, 75.2 - 74.2, 80.1 - 79.1]) is None, "equal but for rounding"


def test_benjamini_hochberg() -> None:
    # of four: 0.04 x 4/4, 0.03 x 4/3, then 0.02 x 4/2 and 0.01 x 4/1, each no larger than the one above
    assert benjamini_hochberg([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert benjamini_hochberg([0.001, 0.02, 0.9]) == pytest.approx([0.003, 0.03, 0.9])
    assert benjamini_hochberg([0.01, None, 0.04]) == pytest.approx([0.02, None, 0.04])
    assert benjamini_hochberg([0.6, 0.7]) == pytest.approx([0.7, 0.7])
    assert benjamini_hochberg([]) == []
    for order in itertools.permutations([0.001, 0.2, 0.012]):
        found = dict(zip(order, benjamini_hochberg(order), strict=True))
        assert found == pytest.approx({0.001: 0.003, 0.2: 0.2, 0.012: 0.018})


def test_average_ranks() -> None:
    # ranks 3 2 1, 3 1 2, 2.5 2.5 1: means 8.5/3, 5.5/3, 4/3
    values = pd.DataFrame({"kd": [1.0, 1.0, 5.0], "dkd": [2.0, 9.0, 5.0], "sdd": [3.0, 2.0, 6.0]})
    found = average_ranks(values)
    assert found is not None
    assert found.num_pairs == 3
    assert list(found.ranks.index) == ["sdd", "dkd", "kd"]
    assert found.ranks.tolist() == pytest.approx([4 / 3, 5.5 / 3, 8.5 / 3])
    # 12 / (3 * 3 * 4) * (8.5^2 + 5.5^2 + 4^2) - 3 * 3 * 4 = 3.5, over 1 - 6 / (3 * 24); p = exp(-x / 2) of 2 degrees
    assert found.p == pytest.approx(np.exp(-(3.5 / (1 - 6 / 72)) / 2))


def test_average_ranks_need_whole_pairs() -> None:
    values = pd.DataFrame({"a": [1.0, float("nan")], "b": [2.0, 3.0]})
    found = average_ranks(values)
    assert found is not None
    assert (found.num_pairs, found.p, found.ranks.to_dict()) == (1, None, {"b": 1.0, "a": 2.0})
    assert average_ranks(values.iloc[1:]) is None
    assert average_ranks(pd.DataFrame()) is None
    same = average_ranks(pd.DataFrame({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}))
    assert same is not None
    assert (same.p, same.ranks.tolist()) == (None, [2.0, 2.0, 2.0])
