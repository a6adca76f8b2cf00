"""Against numbers worked out by hand and from printed t tables."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmark.stats import mean_std, minimum_detectable_effect, paired_difference, t_interval


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
    # differences 1, 1, 2: mean 4/3, std 0.57735, half-width 4.3027 * 0.57735 / sqrt(3) = 1.43423
    assert found.num_seeds == 3
    assert found.mean == pytest.approx(4 / 3)
    assert found.interval == pytest.approx((4 / 3 - 1.43423, 4 / 3 + 1.43423), abs=1e-4)
    # deviations (-1, 0, 1) and (-2/3, 1/3, 1/3): 1 / sqrt(2 * 2/3)
    assert found.correlation == pytest.approx(0.8660, abs=1e-4)
    assert found.detectable == pytest.approx(0.57735 * 3.264, abs=1e-3)


@pytest.mark.parametrize("num", [1, 2])
def test_no_interval_below_three_seeds(num: int) -> None:
    found = paired_difference(pd.Series([2.0, 3.0][:num]), pd.Series([1.0, 1.0][:num]))
    assert found is not None
    assert (found.num_seeds, found.interval, found.correlation, found.detectable) == (num, None, None, None)


def test_no_spread_gives_no_correlation() -> None:
    found = paired_difference(pd.Series([2.0, 2.0, 2.0]), pd.Series([1.0, 2.0, 3.0]))
    assert found is not None
    assert found.correlation is None
    assert found.interval is not None


def test_nothing_shared() -> None:
    assert paired_difference(pd.Series({1: 2.0}), pd.Series({2: 1.0})) is None
    assert paired_difference(pd.Series({1: 2.0}), pd.Series(dtype=float)) is None
    assert paired_difference(pd.Series({1: float("nan")}), pd.Series({1: 1.0})) is None
