"""Format numbers for tables: signs, spreads, intervals, p-values, and a dash for a missing number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.analysis import stats
from benchmark.analysis.table import FEW_SEEDS, UNSURE

MISSING = "—"
_FEW = f"{FEW_SEEDS} fewer than {stats.MIN_SEEDS} seeds"
#: notes under a table with intervals, and under a table without
FEW_SEEDS_NOTE = f"{_FEW}: no interval, and no evidence of a difference."
FEW_SEEDS_NOTE_WITHOUT_INTERVALS = f"{_FEW}: no evidence of a difference."
UNSURE_NOTE = f"{UNSURE} published value of unsure confidence: second-hand, derived or partly legible."


def two_decimals(value: float | None) -> str:
    """Write a number to two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Write a difference to two decimals with its sign, a minus rather than a hyphen."""
    return MISSING if value is None else f"{value:+.2f}".replace("-", "−")


def plus_minus(mean: float, std: float | None) -> str:
    """Write a mean with its standard deviation, if it has one."""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def unmarked_spread(values: Sequence[float]) -> str:
    """Write the mean and standard deviation of values."""
    return plus_minus(*stats.mean_std(values)) if values else MISSING


def spread(values: Sequence[float]) -> str:
    """Write the mean and standard deviation of values; fewer than three seeds are marked."""
    return unmarked_spread(values) + (f" {FEW_SEEDS}" if 0 < len(values) < stats.MIN_SEEDS else "")


def bracketed(interval: stats.Interval | None) -> str:
    """Write the interval of a difference."""
    return MISSING if interval is None else f"[{', '.join(map(signed, interval))}]"


def percent(share: float) -> str:
    """Write a share as a percentage, to a tenth where it is not whole; finer where it would come out as 100%."""
    decimals = max(1, math.ceil(-math.log10(100 * (1 - share)))) if share < 1 else 1
    return f"{100 * share:.{decimals}f}".removesuffix(".0") + "%"


def p_text(p: float | None) -> str:
    """Write a p-value to three decimals."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rounded(value: float | None) -> float | None:
    """Round a number to the four decimals of a CSV field; None where it is not finite."""
    return None if value is None or not math.isfinite(value) else round(value, 4)


def finite(value: object) -> float | None:
    """Parse a finite float, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
