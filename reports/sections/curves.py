"""Test accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.analysis import stats
from benchmark.analysis.methods import pair_title, title_of
from benchmark.analysis.scores import scores
from benchmark.analysis.table import FEW_SEEDS
from benchmark.plan.resolve import Plan
from reports import style
from reports.base import ACCURACY, Block, Context, Drawing, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

#: panels of one figure, so that each can be read in print
PANELS = 4
#: a training of fewer epochs is shown whole
SHORT = 9


@section("Training curves")
def curves(context: Context) -> list[Block]:
    """One panel per pair: the mean over seeds of every method, with a band; nothing without a finished run."""
    return list(drawings(context.plan, context.frame, context.epochs))


def by_epoch(frame: pd.DataFrame, points: pd.DataFrame, plan: Plan, pair: int, method: str) -> pd.DataFrame:
    """Mean, std and num_seeds of the test accuracy by epoch, over a method's finished runs on a pair.

    An epoch counts when every seed has it: a mean over fewer seeds would jump where a seed begins or ends.
    """
    ids = scores(frame, plan.pairs[pair], method).run_ids
    mine = points[points["run_id"].isin(ids) & (points["metric"] == ACCURACY)]
    mine = mine.assign(value=pd.to_numeric(mine["value"], errors="coerce"))
    mine = mine[np.isfinite(mine["value"].astype(float))].drop_duplicates(["run_id", "epoch"], keep="last")
    by = mine.groupby("epoch")["value"]
    found = pd.DataFrame({"mean": by.mean(), "std": by.std(ddof=1), "num_seeds": by.count()})
    return found[found["num_seeds"] == mine["run_id"].nunique()].sort_index()


def drawings(plan: Plan, frame: pd.DataFrame, points: pd.DataFrame) -> list[Drawing]:
    """Draw the figures, up to four pairs each; pairs without a curve are left out."""
    lines = {
        number: {
            method: line for method in plan.methods if not (line := by_epoch(frame, points, plan, number, method)).empty
        }
        for number in range(len(plan.pairs))
    }
    shown = [number for number in lines if lines[number]]
    made = []
    for start in range(0, len(shown), PANELS):
        part = shown[start : start + PANELS]
        titles = [pair_title(plan.pairs[number].name) for number in part]
        seeds = sorted({int(line["num_seeds"].max()) for number in part for line in lines[number].values()})
        told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        few = seeds[0] < stats.MIN_SEEDS
        caption = (
            f"Test accuracy over the epochs: mean over {told} seed{'s' if seeds[-1] > 1 else ''}, with one standard"
            " deviation on either side."
            + (f" {FEW_SEEDS} fewer than {stats.MIN_SEEDS} seeds: no band." if few else "")
            + " Scale-decoupled methods are solid, the others dashed. The axis begins where the lowest method"
            " stands after a third of the training; a training of fewer than 9 epochs is shown whole."
        )
        name = "curves" if len(shown) <= PANELS else f"curves_{start // PANELS + 1}"
        made.append(Drawing(name, figure([lines[number] for number in part], titles), caption))
    return made


def figure(panels: Sequence[dict[str, pd.DataFrame]], titles: Sequence[str]) -> Figure:
    """Draw a panel per pair and one legend for all of them."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with style.style():
        made = style.canvas(style.WIDTH, 0.7 + 2.4 * rows)
        grid = made.subplots(rows, columns, squeeze=False)
        handles: dict[str, Line2D] = {}
        for axes, lines, title in zip(grid.flat, panels, titles, strict=False):
            for method, line in lines.items():
                drawn = _line(axes, method, line)
                handles.setdefault(_label(method, line), drawn)
            axes.set(xlabel="epoch", ylabel="test top-1 accuracy (%)", title=title)
            _look_at_the_end(axes, lines)
            if _lie_on_each_other(axes, lines):
                _enlarge_the_end(axes, lines)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        made.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5)
    return made


def _look_at_the_end(axes: Axes, lines: dict[str, pd.DataFrame]) -> None:
    """Cut off the first rise, which would hide differences between methods; not for a short training."""
    last = max(int(line.index.max()) for line in lines.values())
    if last >= SHORT:
        ends = pd.concat([line["mean"][line.index > last / 3] for line in lines.values()])
        room = 0.1 * float(ends.max() - ends.min()) + 0.5
        axes.set_ylim(float(ends.min()) - room, float(ends.max()) + room)


def _lie_on_each_other(axes: Axes, lines: dict[str, pd.DataFrame]) -> bool:
    """Whether the means of the last third fill less than a quarter of the panel's height."""
    if len(lines) < 2:
        return False
    ends = pd.concat([_last_third(line)["mean"] for line in lines.values()])
    low, high = axes.get_ylim()
    return float(ends.max() - ends.min()) < (high - low) / 4


def _last_third(line: pd.DataFrame) -> pd.DataFrame:
    last = int(line.index.max())
    return line[line.index > last - max(2, last // 3)]


def _enlarge_the_end(axes: Axes, lines: dict[str, pd.DataFrame]) -> None:
    """Draw the means of the last third again in the free lower right of the panel, without their bands."""
    inset = axes.inset_axes((0.5, 0.1, 0.48, 0.27))
    for method, line in lines.items():
        end = _last_third(line)
        inset.plot(end.index, end["mean"], **{**style.look(method).options(), "marker": "", "linewidth": 1})
    inset.set_title("last third", fontsize=7)
    inset.tick_params(labelsize=7, length=2)
    inset.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    inset.margins(x=0.02)


def _label(method: str, line: pd.DataFrame) -> str:
    few = line["num_seeds"].max() < stats.MIN_SEEDS
    return f"{title_of(method)} {FEW_SEEDS}" if few else title_of(method)


def _line(axes: Axes, method: str, line: pd.DataFrame) -> Line2D:
    look = style.look(method)
    at, mean = line.index.to_numpy(), line["mean"].to_numpy()
    every = max(1, len(at) // 8)
    (drawn,) = axes.plot(at, mean, **{**look.options(), "markersize": 3.5}, markevery=every)
    if line["num_seeds"].max() >= stats.MIN_SEEDS:
        std = line["std"].to_numpy()
        axes.fill_between(at, mean - std, mean + std, color=look.colour, alpha=0.15, linewidth=0)
    return drawn
