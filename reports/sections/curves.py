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
#: methods that one panel has room for
TOGETHER = 10
#: columns and rows of a figure that shows more methods of a pair, and methods of a panel in it
COLUMNS, ROWS, APIECE = 3, 4, 5
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
    """Draw the figures: up to four pairs each, or one that has many methods; pairs without a curve have none."""
    lines = {
        pair_title(pair.name): {
            method: line for method in plan.methods if not (line := by_epoch(frame, points, plan, number, method)).empty
        }
        for number, pair in enumerate(plan.pairs)
    }
    made: list[tuple[Figure, str]] = []
    few = [title for title in lines if lines[title] and fit_together(list(lines[title]))]
    for start in range(0, len(few), PANELS):
        titles = few[start : start + PANELS]
        shown = [lines[title] for title in titles]
        how = "Forms of a method, such as its scale-decoupled one, are solid, the others dashed."
        made.append((figure(shown, titles), _caption(shown, how)))
    for title in lines:
        panels = [] if title in few else families(list(lines[title]))
        how = "A method is dashed, the forms of it solid; every panel has the same axes and the student alone."
        for start in range(0, len(panels), COLUMNS * ROWS):
            part = families_figure(lines[title], panels[start : start + COLUMNS * ROWS])
            made.append((part, f"{title}. {_caption([lines[title]], how)}"))
    names = ["curves"] if len(made) == 1 else [f"curves_{place}" for place in range(1, len(made) + 1)]
    return [Drawing(name, drawn, caption) for name, (drawn, caption) in zip(names, made, strict=True)]


def _caption(panels: Sequence[dict[str, pd.DataFrame]], how: str) -> str:
    seeds = sorted({int(line["num_seeds"].max()) for lines in panels for line in lines.values()})
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"Test accuracy over the epochs: mean over {told} seed{'s' if seeds[-1] > 1 else ''}, with one standard"
        " deviation on either side."
        + (f" {FEW_SEEDS} fewer than {stats.MIN_SEEDS} seeds: no band." if seeds[0] < stats.MIN_SEEDS else "")
        + f" {how} The axis begins where the lowest method stands after a third of the training; a training of fewer"
        " than 9 epochs is shown whole."
    )


def fit_together(methods: Sequence[str]) -> bool:
    """Whether these methods can be told apart in one panel."""
    return len(methods) <= TOGETHER and len({style.look(method) for method in methods}) == len(methods)


def families(methods: Sequence[str]) -> list[list[str]]:
    """Put methods into panels: one with the forms that are measured against it; those without a form together."""
    by_root: dict[str, list[str]] = {}
    for method in methods:
        if method != "vanilla":
            by_root.setdefault(_root(method), []).append(method)
    alone = [family[0] for family in by_root.values() if len(family) == 1]
    together = [family for family in by_root.values() if len(family) > 1]
    return [family[at : at + APIECE] for family in [*together, alone] for at in range(0, len(family), APIECE)]


def _root(method: str) -> str:
    """The method that all forms of a method are made of: `kd` of `sdd_ls_kd`."""
    base = style.base_of(method)
    return method if base is None else _root(base)


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
                drawn = _line(axes, line, style.look(method))
                handles.setdefault(_label(method, line), drawn)
            axes.set(xlabel="epoch", ylabel="test top-1 accuracy (%)", title=title)
            _look_at_the_end(axes, lines)
            if _lie_on_each_other(axes, lines):
                _enlarge_the_end(axes, lines)
            style.whole_numbers(axes.xaxis)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        made.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=5)
    return made


def families_figure(lines: dict[str, pd.DataFrame], panels: Sequence[Sequence[str]]) -> Figure:
    """Draw a small panel per family of methods of one pair, with the student alone in each."""
    rows = -(-len(panels) // COLUMNS)
    with style.style():
        made = style.canvas(style.WIDTH, 0.5 + 1.8 * rows)
        grid = made.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            shown = [method for method in ("vanilla", *panels[place]) if method in lines]
            handles = []
            for number, method in enumerate(shown):
                is_form = style.base_of(method) is not None
                look = style.look(method) if method == "vanilla" else style.numbered(number - 1, is_form)
                handles.append(_line(axes, lines[method], look))
            labels = [_label(method, lines[method]) for method in shown]
            axes.legend(handles, labels, loc="best", fontsize=6)
            axes.set(xlabel="epoch", ylabel="test top-1 (%)")
            axes.xaxis.label.set_visible(place + COLUMNS >= len(panels))
            axes.yaxis.label.set_visible(place % COLUMNS == 0)
            axes.tick_params(labelbottom=place + COLUMNS >= len(panels))
            style.whole_numbers(axes.xaxis)
        _look_at_the_end(grid.flat[0], lines)
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


def _line(axes: Axes, line: pd.DataFrame, look: style.Look) -> Line2D:
    at, mean = line.index.to_numpy(), line["mean"].to_numpy()
    every = max(1, len(at) // 8)
    (drawn,) = axes.plot(at, mean, **{**look.options(), "markersize": 3.5}, markevery=every)
    if line["num_seeds"].max() >= stats.MIN_SEEDS:
        std = line["std"].to_numpy()
        axes.fill_between(at, mean - std, mean + std, color=look.colour, alpha=0.15, linewidth=0)
    return drawn
