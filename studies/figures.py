"""Figures of studies: accuracy over trials, over a number and by category, importances, and the timeline.

Accuracies are drawn as points with one standard deviation on either side, never as bars from zero, where the
differences that matter could hardly be seen. Published points have a panel of their own: they are of another data set,
another split, and the best epoch on it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from benchmark.analysis.decision import Decision, confidence_text
from benchmark.analysis.numbers import signed, two_decimals
from benchmark.analysis.style import COLOURS, FAINT, MARKERS, canvas, saved, style
from studies.base import PublishedLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED_COLOURS = ("#333333", "#8C8C8C", "#56B4E9")
PUBLISHED_MARKERS = ("s", "D", "v")

__all__ = [
    "bars",
    "by_panel",
    "canvas",
    "differences",
    "history",
    "importance",
    "importances",
    "interaction",
    "line_with_errors",
    "saved",
    "style",
    "timeline",
]

ACCURACY = "validation top-1 accuracy (%)"
PUBLISHED_ACCURACY = "published test top-1 (%)"
#: share of a panel's height that a mark which is not needed may add
_ROOM = 0.25
#: below this many trials the best tenth, by which importances are computed, is fewer than two trials
MIN_TRIALS_FOR_IMPORTANCE = 20


def completed(frame: pd.DataFrame, *parameters: str) -> pd.DataFrame:
    """Select the trials that ended with a value, in the order of their numbers, with a column for each parameter."""
    done = frame[_states(frame) == "COMPLETE"].reindex(columns=list(dict.fromkeys([*frame.columns, *parameters])))
    numbers = {name: pd.to_numeric(done[name]) for name in ("number", "value", "std", "num_seeds")}
    return done.assign(**numbers).dropna(subset="value").sort_values("number")


def described(frame: pd.DataFrame) -> str:
    """Describe the points of a figure: their number of seeds, and the trials that are not shown."""
    done = completed(frame)
    if done.empty:
        parts = ["no trial has ended yet"]
    else:
        counts = sorted({int(num) for num in done["num_seeds"]})
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts = ["one seed each" if counts == [1] else f"mean and standard deviation of {seeds} seeds"]
    return ", ".join([*parts, *_not_shown(frame)])


def _not_shown(frame: pd.DataFrame) -> list[str]:
    """Count the trials that have no value: `2 pruned`, `1 failed`."""
    states = _states(frame).value_counts()
    words = (("PRUNED", "pruned"), ("FAIL", "failed"))
    return [f"{states[state]} {word}" for state, word in words if states.get(state, 0)]


class Mark(NamedTuple):
    """An accuracy that a line marks in every panel of ours."""

    label: str
    #: percent
    value: float
    #: drawn dashed, and left out where it would take the panel's room unless it `is_needed`
    is_chance: bool = False
    is_needed: bool = True


def with_marks(figure: Figure, marks: Sequence[Mark]) -> Figure:
    """Draw lines at accuracies across the panels that show ours, and add them to the legend."""
    with style():
        ours = [axes for axes in figure.axes if ACCURACY in (axes.get_xlabel(), axes.get_ylabel())]
        shared = [
            axes
            for axes in figure.axes
            if not axes.get_ylabel() and any(one.get_ylabel() == ACCURACY and _share_y(one, axes) for one in ours)
        ]
        for axes in dict.fromkeys([*ours, *shared]):
            is_across = axes.get_xlabel() == ACCURACY
            for mark in marks:
                low, high = axes.get_xlim() if is_across else axes.get_ylim()
                if not mark.is_needed and mark.value < low - _ROOM * (high - low):
                    continue
                colour, line = (FAINT, "--") if mark.is_chance else (COLOURS[2], "-")
                draw = axes.axvline if is_across else axes.axhline
                draw(mark.value, color=colour, linestyle=line, linewidth=1.1, zorder=0.6, label=mark.label)
                if not low < mark.value < high:  # a line alone does not move the limits
                    beyond = 0.04 * (max(high, mark.value) - min(low, mark.value))
                    limits = min(low, mark.value - beyond), max(high, mark.value + beyond)
                    axes.set_xlim(limits) if is_across else axes.set_ylim(limits)
        note = ""
        for legend in list(figure.legends):
            note = legend.get_title().get_text()
            legend.remove()
        _add_legend(figure, note)
    return figure


def _share_y(one: Axes, other: Axes) -> bool:
    return bool(one.get_shared_y_axes().joined(one, other))


def history(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw the accuracy of every trial in the order they were asked for, and the best so far."""
    done = completed(frame)
    with style():
        figure = canvas(6.4, 2.9)
        axes = figure.subplots()
        _points(axes, done["number"], done["value"], done["std"], COLOURS[0], "o", "trial")
        if len(done) > 1:
            axes.step(done["number"], done["value"].cummax(), where="post", color=COLOURS[1], label="best so far")
        for state, marker in (("PRUNED", "+"), ("FAIL", "x")):
            numbers = frame.loc[_states(frame) == state, "number"]
            if len(numbers):
                label = {"PRUNED": "pruned", "FAIL": "failed"}[state]
                low = axes.get_xaxis_transform()
                axes.plot(numbers, [0.03] * len(numbers), marker, color=FAINT, transform=low, label=label)
        _whole_numbers(axes)
        axes.set(xlabel="trial", ylabel=ACCURACY, title=described(frame))
        _finish(figure, title)
    return figure


def line_with_errors(
    frame: pd.DataFrame,
    x: str,
    *,
    xlabel: str,
    by: str | None = None,
    by_order: Sequence[Any] = (),
    named_by: Callable[[Any], str] = str,
    log: bool = False,
    connected: bool = True,
    title: str = "",
    lines: Sequence[PublishedLine] = (),
) -> Figure:
    """Draw the accuracy over a number, one line per value of `by`, labelled by `named_by`.

    `connected` joins the points and puts them on the axis, as a grid wants; a sampler's points stand alone.
    """
    done = completed(frame, x, *([by] if by else ()))
    with style():
        figure = canvas(7.2 if lines else 4.8, 3.2)
        panels = figure.subplots(1, 2 if lines else 1, squeeze=False, width_ratios=(1.1, 1) if lines else None)[0]
        for number, (value, group) in enumerate(_groups(done, by, by_order)):
            group = group.sort_values(x)
            colour, marker = _of(COLOURS, number), _of(MARKERS, number)
            label = named_by(value) if by else None
            _points(panels[0], group[x], group["value"], group["std"], colour, marker, label, connected)
        panels[0].set(xlabel=xlabel, ylabel=ACCURACY, title=_wrapped(f"this study: {described(frame)}"))
        _number_axis(panels[0], sorted(set(done[x].dropna())) if connected else (), log)
        if lines:
            for number, line in enumerate(lines):
                colour, marker = _of(PUBLISHED_COLOURS, number), _of(PUBLISHED_MARKERS, number)
                levels, values = zip(*line.points, strict=True)
                _points(panels[1], levels, values, None, colour, marker, line.label, dashed=True)
            panels[1].set(xlabel=xlabel, ylabel=PUBLISHED_ACCURACY, title=_titles(lines))
            _number_axis(panels[1], sorted({level for line in lines for level, _ in line.points}), log)
        _finish(figure, title)
    return figure


def bars(
    frame: pd.DataFrame,
    category: str,
    *,
    order: Sequence[Any],
    ylabel: str,
    named: Callable[[Any], str] = str,
    by: str | None = None,
    by_order: Sequence[Any] = (),
    named_by: Callable[[Any], str] = str,
    reference: Any = None,
    title: str = "",
    lines: Sequence[PublishedLine] = (),
) -> Figure:
    """Draw the accuracy by category, one row each from the top in `order`, with error bars and values.

    `named` labels a category and `named_by` a value of `by`; a thin line through all rows marks the accuracy of the
    category `reference`.
    """
    done = completed(frame, category, *([by] if by else ()))
    levels = dict.fromkeys([*order, *(level for line in lines for level, _ in line.points)])
    rows = {level: row for row, level in enumerate(levels)}
    groups = _groups(done, by, by_order)
    with style():
        per_row = max(1, len(groups), len(lines))
        figure = canvas(7.2 if lines else 5.2, 1.35 + len(rows) * (0.13 + 0.2 * per_row))
        panels = figure.subplots(
            1, 2 if lines else 1, squeeze=False, sharey=True, width_ratios=(1.1, 1) if lines else None
        )[0]
        for number, (value, group) in enumerate(groups):
            at = [rows[level] + _shift(number, len(groups)) for level in group[category]]
            colour, marker = _of(COLOURS, number), _of(MARKERS, number)
            _row_points(panels[0], at, group["value"], group["std"], colour, marker, named_by(value) if by else None)
        at_reference = done.loc[done[category] == reference, "value"]
        if reference is not None and len(at_reference):
            panels[0].axvline(
                at_reference.mean(),
                color=FAINT,
                linewidth=0.9,
                linestyle=":",
                zorder=0.5,
                label=f"at {named(reference)}",
            )
        panels[0].set(xlabel=ACCURACY, ylabel=ylabel, title=_wrapped(f"this study: {described(frame)}"))
        panels[0].set_yticks(list(rows.values()), [named(value) for value in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        if lines:
            for number, line in enumerate(lines):
                at = [rows[level] + _shift(number, len(lines)) for level, _ in line.points]
                colour, marker = _of(PUBLISHED_COLOURS, number), _of(PUBLISHED_MARKERS, number)
                _row_points(panels[1], at, [value for _, value in line.points], None, colour, marker, line.label)
            panels[1].set(xlabel=PUBLISHED_ACCURACY, title=_titles(lines))
        for axes in panels:
            _separate_rows(axes, len(rows))
        _finish(figure, title)
    return figure


def _separate_rows(axes: Axes, num_rows: int) -> None:
    """Draw a thin line between rows instead of a grid, with room for the values next to the points."""
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    for between in range(1, num_rows):
        axes.axhline(between - 0.5, color="#E3E3E3", linewidth=0.6, zorder=0.4)
    axes.margins(x=0.18)


def by_panel(
    frame: pd.DataFrame,
    x: str,
    *,
    xlabel: str,
    panel: str,
    order: Sequence[Any],
    named_panel: Callable[[Any], str] = str,
    by: str,
    by_order: Sequence[Any],
    named_by: Callable[[Any], str] = str,
    title: str = "",
) -> Figure:
    """Draw the accuracy over a number on a logarithmic axis, with a panel per value of `panel` and a mark per `by`.

    A panel where `x` does not apply has no such axis: the trials of each value of `by` stand side by side.
    """
    done = completed(frame, x, panel, by)
    numbers = done[x].dropna()
    without = {
        level for level in order if len(done[done[panel] == level]) and done[done[panel] == level][x].isna().all()
    }
    with style():
        figure = canvas(1.2 + 1.75 * len(order), 3.3)
        ratios = [0.6 if level in without else 1.0 for level in order]
        panels = figure.subplots(1, len(order), squeeze=False, sharey=True, width_ratios=ratios)[0]
        for axes, level in zip(panels, order, strict=True):
            part = done[done[panel] == level]
            for number, (value, group) in enumerate(_groups(part, by, by_order)):
                at = [number] * len(group) if level in without else group[x]
                colour, marker = _of(COLOURS, number), _of(MARKERS, number)
                _points(axes, at, group["value"], group["std"], colour, marker, named_by(value))
            axes.set_title(named_panel(level))
            if level in without:
                axes.set_xticks([])
                axes.set_xlabel("does not apply")
                axes.set_xlim(-0.7, len(by_order) - 0.3)
            else:
                axes.set_xlabel(xlabel)
                _number_axis(axes, (), log=True)
                if len(numbers):
                    axes.set_xlim(numbers.min() / 1.3, numbers.max() * 1.3)
        panels[0].set_ylabel(ACCURACY)
        _finish(figure, title, described(frame))
    return figure


def differences(
    frame: pd.DataFrame,
    rows: Sequence[str],
    series: Mapping[str, Sequence[Decision]],
    *,
    ylabel: str,
    title: str = "",
) -> Figure:
    """Draw decided differences, one row each from the top and a mark for each of `series`, with their intervals.

    `series` holds a decision for every row; one without an interval is a mark alone, one without a difference is none.
    """
    decided = [one for decisions in series.values() for one in decisions]
    seeds = sorted({one.difference.num_seeds for one in decided if one.difference is not None})
    with style():
        figure = canvas(5.6, 1.45 + len(rows) * (0.13 + 0.16 * len(series)))
        axes = figure.subplots()
        for number, (label, decisions) in enumerate(series.items()):
            shown = [(row, one) for row, one in enumerate(decisions) if one.difference is not None]
            at = [row + _shift(number, len(series)) for row, _ in shown]
            means = [one.difference.mean for _, one in shown if one.difference is not None]
            widths = [0.0 if one.interval is None else (one.interval[1] - one.interval[0]) / 2 for _, one in shown]
            colour, marker = _of(COLOURS, number), _of(MARKERS, number)
            _row_points(axes, at, means, widths, colour, marker, label, signed)
        axes.axvline(0, color="black", linewidth=0.8, zorder=0.5)
        of_seeds = f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds" if seeds else "no trial yet"
        words = [f"paired over {of_seeds}, intervals at {confidence_text(decided)}", *_not_shown(frame)]
        axes.set(xlabel="difference in validation top-1 (points)", ylabel=ylabel, title=", ".join(words))
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        _separate_rows(axes, len(rows))
        _finish(figure, title)
    return figure


def interaction(
    frame: pd.DataFrame,
    x: str,
    *,
    order: Sequence[str],
    named: Callable[[str], str],
    by: str,
    named_by: Callable[[str], str],
    panel: str,
    panels: Mapping[str, str],
    title: str = "",
) -> Figure:
    """Draw the accuracy at the levels of `x`, joined by a line per level of `by`: parallel where the two add up.

    Both have the levels `order`; `panels` holds the heading of the panel of every level of `panel`.
    """
    done = completed(frame, x, by, panel)
    with style():
        figure = canvas(1.1 + 2.9 * len(panels), 3.4)
        found = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (level, heading) in zip(found, panels.items(), strict=True):
            for number, (value, group) in enumerate(_groups(done[done[panel] == level], by, order)):
                group = group.sort_values(x, key=lambda levels: levels.map(order.index))
                at = [order.index(one) + 0.25 * _shift(number, len(order)) for one in group[x]]
                colour, marker = _of(COLOURS, number), _of(MARKERS, number)
                _points(axes, at, group["value"], group["std"], colour, marker, named_by(value), connected=True)
            axes.set_xticks(range(len(order)), [named(one) for one in order])
            axes.set_xlim(-0.4, len(order) - 0.6)
            axes.set_title(heading)
        found[0].set_ylabel(ACCURACY)
        _finish(figure, title, described(frame))
    return figure


def why_no_importance(study: optuna.Study) -> str | None:
    """Say why the importance of the parameters cannot be computed; None when it can."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = {name for trial in done for name in trial.params}
    if len(names) == 1:
        return f"there is one parameter, {min(names)}"
    if len(done) < MIN_TRIALS_FOR_IMPORTANCE:
        return f"{len(done)} trials have ended, and it takes {MIN_TRIALS_FOR_IMPORTANCE}"
    if len({trial.value for trial in done}) == 1:
        return "all trials ended with the same value"
    return None


def importances(study: optuna.Study) -> dict[str, float]:
    """Importance of each parameter for being among the best trials, by PED-ANOVA; empty when it cannot be computed."""
    if why_no_importance(study) is not None:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def importance(study: optuna.Study, title: str = "") -> Figure:
    """Draw the importance of each parameter, by PED-ANOVA, where `why_no_importance` says nothing against it."""
    with style():
        shares = importances(study)
        num = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        figure = canvas(4.8, 1.1 + 0.32 * len(shares))
        axes = figure.subplots()
        axes.barh(range(len(shares)), list(shares.values()), height=0.55, color=COLOURS[0])
        for row, share in enumerate(shares.values()):
            axes.annotate(f"{share:.2f}", (share, row), (3, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set_ylim(len(shares) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * max(shares.values()))
        axes.set(xlabel="share of importance", title=f"PED-ANOVA: the best tenth of {num} trials against all")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        _finish(figure, title)
    return figure


def timeline(study: optuna.Study, title: str = "") -> Figure:
    """Draw the timeline of a study's trials, coloured by state; running trials extend to the last known moment."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start is not None]
    with style():
        start = min(_time(trial.datetime_start) for trial in trials)
        moments = [t for trial in trials for t in (trial.datetime_start, trial.datetime_complete) if t is not None]
        last = max(map(_time, moments))
        unit, seconds = _unit(last - start)
        figure = canvas(6.4, min(6.5, 1.2 + 0.11 * max(len(trials), 8)))
        axes = figure.subplots()
        for state, (colour, hatch, word) in _STATES.items():
            of_state = [trial for trial in trials if trial.state == state]
            if of_state:
                left = [(_time(trial.datetime_start) - start) / seconds for trial in of_state]
                right = [(_end(trial, last) - start) / seconds for trial in of_state]
                widths = [end - begin for begin, end in zip(left, right, strict=True)]
                numbers = [trial.number for trial in of_state]
                axes.barh(
                    numbers, widths, left=left, height=0.7, color=colour, hatch=hatch, edgecolor="white", label=word
                )
        axes.set_ylim(max(trial.number for trial in trials) + 0.7, -0.7)
        axes.set_xlim(left=0)
        _whole_numbers(axes, "y")
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=f"time since the first trial began ({unit})", ylabel="trial")
        _finish(figure, title)
    return figure


_STATES: Mapping[TrialState, tuple[str, str, str]] = {
    TrialState.COMPLETE: (COLOURS[0], "", "complete"),
    TrialState.PRUNED: ("#E69F00", "////", "pruned"),
    TrialState.FAIL: (COLOURS[1], "xxxx", "failed"),
    TrialState.RUNNING: ("#BFBFBF", "", "running"),
}


def _states(frame: pd.DataFrame) -> pd.Series[str]:
    return frame["state"].astype(str).str.upper()


def _time(moment: Any) -> float:
    return float(moment.timestamp())


def _end(trial: FrozenTrial, last: float) -> float:
    return last if trial.datetime_complete is None else _time(trial.datetime_complete)


def _unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds < 180 else ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _groups(done: pd.DataFrame, by: str | None, order: Sequence[Any]) -> list[tuple[Any, pd.DataFrame]]:
    # all of `order`, the empty ones too: each keeps its colour and its place, whichever trials have ended
    return [(None, done)] if by is None else [(value, done[done[by] == value]) for value in order]


def _of(choices: Sequence[str], number: int) -> str:
    return choices[number % len(choices)]


def _shift(number: int, num: int) -> float:
    """Offset within its row of point `number` of `num`, so that their error bars do not cover each other."""
    return 0.0 if num == 1 else (number / (num - 1) - 0.5) * 0.4


def _errors(std: Any) -> list[float] | None:
    values = [] if std is None else [0.0 if value is None or math.isnan(value) else float(value) for value in std]
    return values if any(values) else None


def _points(
    axes: Axes,
    x: Any,
    y: Any,
    std: Any,
    colour: str,
    marker: str,
    label: str | None,
    connected: bool = False,
    dashed: bool = False,
) -> None:
    if not len(list(x)):
        return
    axes.errorbar(
        list(x),
        list(y),
        yerr=_errors(std),
        color=colour,
        marker=marker,
        markerfacecolor="white" if dashed else colour,
        linestyle="--" if dashed else "-" if connected else "",
        elinewidth=1,
        capsize=2.5,
        label=label,
    )


def _row_points(
    axes: Axes,
    rows: Sequence[float],
    x: Any,
    std: Any,
    colour: str,
    marker: str,
    label: str | None,
    written: Callable[[float], str] = two_decimals,
) -> None:
    values, errors = list(x), _errors(std)
    if not values:
        return
    fill = "white" if colour in PUBLISHED_COLOURS else colour
    axes.errorbar(
        values,
        rows,
        xerr=errors,
        color=colour,
        marker=marker,
        markerfacecolor=fill,
        linestyle="",
        elinewidth=1,
        capsize=2.5,
        label=label,
    )
    for value, row, error in zip(values, rows, errors or [0.0] * len(values), strict=True):
        axes.annotate(
            written(value), (value + error, row), (5, 0), textcoords="offset points", va="center", fontsize=7.5
        )


def _number_axis(axes: Axes, ticks: Sequence[float], log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if ticks:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _whole_numbers(axes: Axes, which: str = "x") -> None:
    from matplotlib.ticker import MaxNLocator

    (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _titles(lines: Sequence[PublishedLine]) -> str:
    return "\n".join(_wrapped(title) for title in dict.fromkeys(line.title for line in lines))


def _wrapped(text: str) -> str:
    # as much as fits above the narrowest panel
    return textwrap.fill(text, 36)


def _finish(figure: Figure, title: str, note: str = "") -> None:
    """Add a title above all panels, and one legend below them, with a note above it: where they cover nothing."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    _add_legend(figure, note)


def _add_legend(figure: Figure, note: str) -> None:
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if shown:
        figure.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=min(len(shown), 4), title=note
        )
