"""Ablations of scale decoupling: weight of complementary regions, scale sets, consistent and complementary regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from matplotlib.figure import Figure

import distillers
from benchmark import results
from benchmark.analysis import published, stats
from benchmark.analysis.gains import is_comparable
from benchmark.analysis.methods import base_of, pair_title, title_of
from benchmark.analysis.numbers import FEW_SEEDS_NOTE, MISSING, finite, rounded, spread, two_decimals
from benchmark.analysis.published.entry import Level
from benchmark.analysis.scores import Scores, as_scores
from benchmark.analysis.table import FEW_SEEDS, Cell, Column, Row, Section, Table
from benchmark.config import numerics_of
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from benchmark.tracking import Tracked
from reports import style
from reports.base import Block, Command, Context, Drawing, Listing, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Factor = Literal["beta", "scales", "terms"]

BETA, CONSISTENT, SCALES = "param.sdd.beta", "param.sdd.consistent", "param.sdd.scales"
#: columns that identify a run, as opposed to how it was trained
_NAMES = ("param.repetition", "param.method", "param.student", "param.teacher")
#: columns that a frame may lack
_NEEDED = (
    *("status", "teacher", "student", "method", "repetition", "run_id", "last", "teacher_checksum"),
    *(BETA, CONSISTENT, SCALES),
)
TERMS = ("none", "consistent", "complementary", "both")


@dataclass(frozen=True)
class Ablation:
    """One part of a method varied on a pair, all else equal."""

    factor: Factor
    pair: Pair
    method: str
    #: settings in which it differs from other ablations of the same part, pair and method
    setting: str
    #: by level, ascending: a number, a scale set, or a name of `TERMS`
    levels: dict[Level, Scores]


@dataclass(frozen=True)
class Part:
    """The way a part is varied, and the paper's table of it."""

    title: str
    xlabel: str
    #: the paper's table
    series: str
    #: parameters that vary with the part
    varied: tuple[str, ...]
    level: Callable[[pd.Series[Any]], Level | None]
    #: runs that fill it, by the settings that each changes from the suite's
    settings: tuple[tuple[str, ...], ...]


def _beta(run: pd.Series[Any]) -> Level | None:
    beta = finite(run[BETA])
    # at 0 the complementary regions are gone: that is the terms' ablation
    return beta if beta and finite(run[CONSISTENT]) == 1 else None


def _scales(run: pd.Series[Any]) -> Level | None:
    parts = str(run[SCALES]).strip("[]() ").split(",")
    return tuple(int(part) for part in parts if part.strip()) if all(p.strip().isdigit() for p in parts) else None


def _terms(run: pd.Series[Any]) -> Level | None:
    beta, consistent = finite(run[BETA]), finite(run[CONSISTENT])
    if beta is None or consistent is None:
        return None
    if beta and consistent:
        # the published method; other weights of both belong to the ablation of beta
        return "both" if (beta, consistent) == (2, 1) else None
    if beta == consistent:
        return None
    return "consistent" if consistent else "complementary"


PARTS: dict[Factor, Part] = {
    "beta": Part(
        title="Weight of complementary regions",
        xlabel="weight of complementary regions, sdd.beta",
        series="sdd/table8",
        varied=(BETA,),
        level=_beta,
        settings=(("sdd.beta=1",), ("sdd.beta=4",), ("sdd.beta=6",), ("sdd.beta=8",)),
    ),
    "scales": Part(
        title="Scale sets",
        xlabel="scale set, sdd.scales",
        series="sdd/table7",
        varied=(SCALES,),
        level=_scales,
        settings=(("sdd.scales=1",), ("sdd.scales=1,2",), ("sdd.scales=1,4",), ("sdd.scales=1,2,4",)),
    ),
    "terms": Part(
        title="Consistent and complementary regions",
        xlabel="regions that count",
        series="sdd/table6",
        varied=(BETA, CONSISTENT),
        level=_terms,
        settings=(("sdd.beta=0",), ("sdd.beta=1", "sdd.consistent=0")),
    ),
}


@section("Ablations")
def ablations(context: Context) -> list[Block]:
    """Accuracy over each part, next to the paper's points."""
    found = find_all(context)
    blocks: list[Block] = []
    absent: list[Factor] = []
    for factor, part in PARTS.items():
        mine = [one for one in found if one.factor == factor]
        if mine:
            blocks.append(Listing(f"ablation_{factor}", table(context, factor, mine)))
            blocks.append(Drawing(f"ablation_{factor}_figure", figure(factor, mine), _caption(part)))
        else:
            absent.append(factor)
    if absent:
        named = "; ".join(PARTS[factor].title.lower() for factor in absent)
        commands = "\n".join(line for factor in absent for line in missing(factor, context))
        text = f"No pair has finished runs that differ in one of these alone: {named}. These train them:"
        blocks.append(Command(text, commands))
    return blocks


def missing(factor: Factor, context: Context) -> list[str]:
    """The commands that train the runs that an ablation needs."""
    method = next((name for name in context.plan.methods if name.startswith("sdd_")), "sdd_kd")
    return [
        context.command("--methods", method, *(word for one in changed for word in ("--set", one)))
        for changed in PARTS[factor].settings
    ]


@lru_cache(maxsize=1)
def find_all(context: Context) -> list[Ablation]:
    """Find every ablation on a pair of the plan and its images; cached, since the verdict needs them again."""
    return find(context.plan, tracked_frame(context.tracked))


def tracked_frame(tracked: Iterable[Tracked]) -> pd.DataFrame:
    """Tabulate the student runs that saw the test set as `results.frame` does, with their parameters.

    Without those of another version of the method or the harness: parameters do not tell them apart, numbers do.
    """
    students = (run for run in tracked if run.tags.get("role") == "student" and run.params.get("tuning") != "True")
    runs = [run for run in students if _is_of_this_version(run)]
    return results.with_parameters(results.frame(runs), runs)


def _is_of_this_version(run: Tracked) -> bool:
    if run.tags["method"] not in distillers.registry:  # of a plugin that is not loaded
        return False
    now = numerics_of(run.tags["method"])
    return run.tags.get("numerics", now) == now


def find(plan: Plan, frame: pd.DataFrame) -> list[Ablation]:
    """Find every ablation on a pair of the plan and its images; `frame` has a column per parameter.

    Runs belong together when they agree in every parameter but the part's and the seed's, and in their teacher; their
    recipe is that of the plan.
    """
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *_NEEDED])))
    frame = frame[(frame["status"] == "FINISHED") & _on_the_same_images(plan, frame)]
    params = [name for name in frame.columns if name.startswith("param.") and name not in _NAMES]
    found = []
    for pair in plan.pairs:
        of_pair = frame[(frame["teacher"] == pair.teacher) & (frame["student"] == pair.student)]
        for method in dict.fromkeys(of_pair["method"]):
            runs = of_pair[(of_pair["method"] == method) & of_pair[BETA].notna()]
            runs = runs[_by_the_same_recipe(plan, pair, str(method), runs)]
            bases = of_pair[of_pair["method"] == base_of(str(method))]
            for factor in PARTS:
                found += _ablations(factor, pair, str(method), runs, bases, params)
    return found


def _on_the_same_images(plan: Plan, frame: pd.DataFrame) -> pd.Series[bool]:
    """Mark runs that trained on as many images and with the same split as the plan's; unknown numbers agree."""
    keys = ("num_train", "num_test", "val_fraction")
    return _agree(frame, {f"param.data.{key}": getattr(plan.data, key) for key in keys})


def _by_the_same_recipe(plan: Plan, pair: Pair, method: str, frame: pd.DataFrame) -> pd.Series[bool]:
    """Mark runs of a method that have the recipe of the plan's; all of them where the plan has none."""
    configs = (run.config for run in plan.runs if run.config.method == method and run.config.student == pair.student)
    config = next((one for one in configs if one.teacher in (None, pair.teacher)), None)
    recipe = config.recipe.model_dump(mode="json") if config else {}
    return _agree(frame, {f"param.recipe.{key}": value for key, value in recipe.items()})


def _agree(frame: pd.DataFrame, settings: Mapping[str, object]) -> pd.Series[bool]:
    """Mark runs that have these settings, as far as they are known."""
    same = pd.Series(True, index=frame.index)
    for column, value in settings.items():
        if column in frame:
            same &= frame[column].isna() | (frame[column].map(str) == str(value))
    return same


def _ablations(
    factor: Factor, pair: Pair, method: str, runs: pd.DataFrame, bases: pd.DataFrame, params: Sequence[str]
) -> list[Ablation]:
    part = PARTS[factor]
    fixed = ["teacher_checksum", *(name for name in params if name not in part.varied)]
    if runs.empty:
        return []
    leveled = runs.assign(_level=pd.Series([part.level(run) for _, run in runs.iterrows()], runs.index, object))
    leveled = leveled[leveled["_level"].notna()]
    groups = []
    # as text, so that unknown values form groups too
    keys = pd.Series(["\n".join(map(str, run)) for run in leveled[fixed].itertuples(index=False)], leveled.index, str)
    for _, group in leveled.groupby(keys, sort=False):
        levels: dict[Level, Scores] = {
            level: as_scores(group[[one == level for one in group["_level"]]])
            for level in sorted(set(group["_level"]), key=_order)
        }
        levels = {level: one for level, one in levels.items() if one.run_ids}
        if len(levels) < 2:
            continue
        without = _base_level(factor)
        base = as_scores(bases[_equal(bases, group.iloc[0], [*_shared(params, bases), "teacher_checksum"])])
        if without is not None and without not in levels and base.run_ids:
            levels = {without: base, **levels}
        groups.append((group.iloc[0], levels))
    # most points first
    groups.sort(key=lambda one: -sum(len(level.values) for level in one[1].values()))
    differing = [name for name in fixed if len({str(run[name]) for run, _ in groups}) > 1]
    return [
        Ablation(factor, pair, method, ", ".join(f"{_short(name)} {run[name]}" for name in differing), levels)
        for run, levels in groups
    ]


def _base_level(factor: Factor) -> Level | None:
    """The level at which scale decoupling is its base method."""
    if factor == "terms":
        return "none"
    return (1,) if factor == "scales" else None


def _shared(params: Sequence[str], bases: pd.DataFrame) -> list[str]:
    return [name for name in params if not name.startswith("param.sdd.") and bases[name].notna().any()]


def _equal(frame: pd.DataFrame, run: pd.Series[Any], names: Iterable[str]) -> pd.Series[bool]:
    same = pd.Series(True, index=frame.index)
    for name in names:
        same &= frame[name].map(str) == str(run[name])
    return same


def _short(name: str) -> str:
    return name.removeprefix("param.").replace("teacher_checksum", "teacher")


def _order(level: Level) -> tuple[int, tuple[float, ...]]:
    if isinstance(level, str):
        return 0, (TERMS.index(level),)
    return (len(level), level) if isinstance(level, tuple) else (0, (level,))


def level_text(level: Level) -> str:
    """Format a level for labels, e.g. {1, 2, 4}."""
    if isinstance(level, tuple):
        return "{" + ", ".join(f"{part:g}" for part in level) + "}"
    return level if isinstance(level, str) else f"{level:g}"


def published_points(plan: Plan, dataset: str, factor: Factor, pair: Pair) -> dict[Level, float]:
    """The paper's points for a part of SD-KD on a pair; empty where it prints none, and where nothing is comparable."""
    series = published.ablation(PARTS[factor].series)
    is_same = is_comparable(plan, dataset) and plan.data.name == series.data
    return dict(series.points(pair.name)) if is_same else {}


def table(context: Context, factor: Factor, found: Sequence[Ablation]) -> Table:
    """Tabulate our accuracies by level, next to the paper's for the same pair where they are comparable."""
    part = PARTS[factor]
    series = published.ablation(part.series)
    sections = []
    few = False
    for one in found:
        is_papers = one.method == "sdd_kd"
        printed = published_points(context.plan, context.dataset, factor, one.pair) if is_papers else {}
        rows = []
        for level, of_level in one.levels.items():
            few |= len(of_level.values) < stats.MIN_SEEDS
            value = printed.get(level)
            mean, std = stats.mean_std(of_level.values)
            row = Row.of(
                level_text(level),
                Cell(spread(of_level.values), of_level.run_ids),
                str(len(of_level.values)),
                two_decimals(value),
                factor=factor,
                pair=one.pair.name,
                method=one.method,
                setting=one.setting,
                level=level_text(level),
                mean=rounded(mean),
                std=rounded(std),
                num_seeds=len(of_level.values),
                published=value,
                run_ids=" ".join(of_level.run_ids),
            )
            rows.append(row)
        sections.append(Section(f"{pair_title(one.pair.name)}, {title_of(one.method)}", one.setting, tuple(rows)))
    notes = [
        "last: test top-1 in percent after the last epoch, mean ± standard deviation (n - 1).",
        f"published: {series.source}; {series.selection}; {MISSING} for other data, a part of it, or changed settings.",
        *series.notes,
    ]
    if factor == "beta":
        notes.append(
            "A larger weight is also a larger loss, unless the loss is divided by it: two causes are mixed here."
        )
    if factor in ("scales", "terms"):
        notes.append(f"{level_text(_base_level(factor) or '')} is the base method where it was not run by itself.")
    if few:
        notes.append(FEW_SEEDS_NOTE)
    columns = (Column(part.xlabel.partition(",")[0], "left"), Column("last"), Column("seeds"), Column("published"))
    return Table(part.title, "Runs that differ in this alone.", columns, tuple(sections), tuple(notes))


def _caption(part: Part) -> str:
    series = published.ablation(part.series)
    return (
        f"{part.title}. Left: ours, mean and standard deviation over seeds ({FEW_SEEDS} and open marks: fewer than"
        f" {stats.MIN_SEEDS}, no spread is drawn). Right: {series.title} ({part.series}), single printed numbers."
    )


def figure(factor: Factor, found: Sequence[Ablation]) -> Figure:
    """Draw ours on the left and the paper's on the right: they have other data or teachers, so never one axis."""
    part, series = PARTS[factor], published.ablation(PARTS[factor].series)
    printed = [(pair_title(str(row.pair)), dict(series.points(row.pair, row.method, row.label))) for row in series.rows]
    levels = sorted({level for one in found for level in one.levels} | set(series.levels), key=_order)
    line = "-" if factor == "beta" else "none"
    with style.style():
        below = 0.1 + 0.19 * max(len(found), len(printed))
        height = 2.5 + below
        made = style.canvas(style.WIDTH, height)
        # legends stand under the panels, in a strip that the layout leaves free
        made.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - below / height))
        ours, theirs = made.subplots(1, 2)
        for number, one in enumerate(found):
            _draw_ours(ours, one, number, levels, len(found), line)
        for number, (label, points) in enumerate(printed):
            at = [_place(level, levels) for level in points]
            theirs.plot(
                at,
                list(points.values()),
                color=style.PUBLISHED if number else style.ALONE,
                marker=style.MARKERS[number + 1],
                linestyle="--" if factor == "beta" else "none",
                label=label,
            )
        ours.set(xlabel=part.xlabel, ylabel="last test top-1 (%)", title="this benchmark")
        theirs.set(xlabel=part.xlabel, ylabel="best test top-1 (%)", title=f"published: {part.series}")
        for axes in (ours, theirs):
            ticks = [level_text(level).replace("complementary", "comple-\nmentary") for level in levels]
            axes.set_xticks(range(len(levels)), ticks)
            axes.set_xlim(-0.5, len(levels) - 0.5)
            axes.margins(y=0.15)
        for axes, left in ((ours, 0.02), (theirs, 0.52)):
            if axes.get_legend_handles_labels()[1]:
                at_strip = (left, below / height)
                legend = axes.legend(loc="upper left", bbox_to_anchor=at_strip, bbox_transform=made.transFigure)
                legend.set_in_layout(False)
    return made


def _draw_ours(axes: Axes, one: Ablation, number: int, levels: Sequence[Level], num: int, line: str) -> None:
    look: dict[str, Any] = {
        "color": style.COLOURS[number % len(style.COLOURS)],
        "marker": style.MARKERS[number % len(style.MARKERS)],
    }
    shift = (number - (num - 1) / 2) * min(0.1, 0.4 / num)
    points = [
        (_place(level, levels) + shift, *stats.mean_std(of.values), len(of.values)) for level, of in one.levels.items()
    ]
    enough = [(at, mean, std) for at, mean, std, seeds in points if seeds >= stats.MIN_SEEDS and std is not None]
    few = [(at, mean) for at, mean, _, seeds in points if seeds < stats.MIN_SEEDS]
    label = f"{pair_title(one.pair.name)}, {title_of(one.method)}" + (f" {FEW_SEEDS}" if few else "")
    if one.setting:
        label += f" (setting {number + 1} of the table)"
    axes.plot([at for at, *_ in points], [mean for _, mean, *_ in points], linestyle=line, label=label, **look)
    for at, mean, std in enough:
        axes.errorbar(at, mean, yerr=std, color=look["color"], capsize=2)
    if few:
        axes.plot(*zip(*few, strict=True), linestyle="none", markerfacecolor="white", zorder=3, **look)


def _place(level: Level, levels: Sequence[Level]) -> int:
    return list(levels).index(level)
