"""The figure of the ratios, as bars."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from benchmark.perf.base import SideBySide
from benchmark.perf.report import Result

#: colours of Okabe and Ito's palette that also differ in grey: better, worse
BETTER, WORSE = "#0072B2", "#E69F00"
#: height of a row, and the distance from a group's last bar to the next group's name, in rows
ROW_INCHES, GAP_ROWS = 0.21, 1.5
WIDTH_INCHES = 7.6
AXIS_STEPS = (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100)


def ratio_bars(results: Sequence[Result], title: str) -> dict[str, bytes]:
    """Draw a bar per ratio on a log axis from 1, grouped by measurement, as `png` and `svg`.

    The line across a bar's end spans the quartiles. Rows without a ratio are left out.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # takes a second to import: only commands that draw wait for it

    groups = [(result.measurement.title, [row for row in result.rows if row.ratio]) for result in results]
    groups = [(name, rows) for name, rows in groups if rows]
    height = sum(len(rows) + GAP_ROWS for _, rows in groups)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "perf", "font.size": 8, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(WIDTH_INCHES, 1.1 + ROW_INCHES * height), layout="constrained", dpi=160)
        axes = figure.subplots()
        place = 0.0
        labels: dict[float, str] = {}
        headings = []
        for name, rows in groups:
            labels[place] = name
            headings.append(name)
            for row in rows:
                place += 1
                labels[place] = row.label
                _draw_bar(axes, place, row)
            place += GAP_ROWS
        ratios = [row.ratio for _, rows in groups for row in rows if row.ratio]
        lowest = min(1.0, *(min(ratio.medians, ratio.low) for ratio in ratios))
        highest = max(1.0, *(max(ratio.medians, ratio.high) for ratio in ratios))
        axes.set_xscale("log")
        axes.set_xlim(0.9 * lowest, 1.5 * highest)
        axes.set_ylim(place - GAP_ROWS + 0.7, -0.7)
        steps = [step for step in AXIS_STEPS if 0.9 * lowest <= step <= 1.5 * highest]
        axes.set_xticks(steps, [f"{step:g}×" for step in steps])
        axes.minorticks_off()
        for text in axes.set_yticks(list(labels), list(labels.values())):
            text.label1.set_fontweight("bold" if text.label1.get_text() in headings else "normal")
        axes.tick_params(axis="y", length=0)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("how many times better than the reference (log scale)")
        figure.suptitle(textwrap.fill(title, 110), fontsize=8, x=0.01, ha="left")
        return {kind: _saved(figure, kind) for kind in ("png", "svg")}


def _draw_bar(axes: Any, place: float, row: SideBySide) -> None:
    assert row.ratio is not None
    value, low, high = row.ratio.medians, row.ratio.low, row.ratio.high
    look = {"color": BETTER} if value >= 1 else {"color": WORSE, "hatch": "////"}
    axes.barh(place, value - 1, left=1, height=0.72, edgecolor="white", linewidth=0.3, **look)
    axes.plot([low, high], [place, place], color="black", linewidth=1)
    end = (max(value, high, 1.0), place)
    axes.annotate(f"{value:.2f}×", end, xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)


def _saved(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
