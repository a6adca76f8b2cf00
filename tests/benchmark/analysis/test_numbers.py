"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from benchmark.analysis import numbers
from benchmark.analysis.numbers import MISSING
from benchmark.analysis.table import FEW_SEEDS


def test_a_minus_is_no_hyphen_and_nothing_is_a_dash() -> None:
    assert [numbers.signed(value) for value in (-0.456, 0.0, 3, None)] == ["−0.46", "+0.00", "+3.00", MISSING]
    assert [numbers.two_decimals(value) for value in (75.004, None)] == ["75.00", MISSING]
    assert numbers.bracketed((-1.0, 2.0)) == "[−1.00, +2.00]"
    assert numbers.bracketed(None) == MISSING


def test_a_spread_has_a_standard_deviation_from_two_values_and_a_mark_below_three() -> None:
    assert numbers.spread([]) == MISSING
    assert numbers.spread([75.0]) == f"75.00 {FEW_SEEDS}"
    assert numbers.spread([75.0, 76.0]) == f"75.50 ± 0.71 {FEW_SEEDS}"
    assert numbers.spread([75.0, 76.0, 77.0]) == numbers.unmarked_spread([75.0, 76.0, 77.0]) == "76.00 ± 1.00"


def test_a_percentage_has_a_tenth_only_where_it_needs_one() -> None:
    assert [numbers.percent(share) for share in (0.95, 0.975, 0.99375, 1)] == ["95%", "97.5%", "99.4%", "100%"]


@pytest.mark.parametrize("tested", [101, 300, 2000, 10_000])
def test_a_confidence_is_never_100_percent(tested: int) -> None:
    """One difference decided of very many that were tested."""
    text = numbers.percent(1 - 0.05 / tested)
    assert text.startswith("99.9")
    assert float(text.removesuffix("%")) == pytest.approx(100 - 5 / tested, abs=2.5 / tested)


@pytest.mark.parametrize(("p", "text"), [(None, MISSING), (0.0004, "< 0.001"), (0.0495, "0.050"), (1.0, "1.000")])
def test_p_values(p: float | None, text: str) -> None:
    assert numbers.p_text(p) == text


def test_what_is_not_finite_is_no_number() -> None:
    assert [numbers.rounded(value) for value in (1.23456, math.nan, math.inf, None)] == [1.2346, None, None, None]
    assert [numbers.finite(value) for value in ("1.5", 2, "nan", "text", None)] == [1.5, 2.0, None, None, None]
