"""Means and bands of synthetic curves, and the figures themselves."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.axes import Axes

from benchmark.analysis.methods import title_of
from benchmark.tracking import Tracked
from reports.sections.curves import by_epoch, curves, families
from tests.reports.frames import METHODS, PAIR, check_drawn, context, drawings, plan, runs


def points(tracked: list[Tracked], epochs: int = 12) -> pd.DataFrame:
    rows = [
        (run.signature, run.run_id, epoch, "test/top1", run.metrics["final/last"] - 30 / epoch)
        for run in tracked
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows, columns=["signature", "run_id", "epoch", "metric", "value"])


def all_runs(num: int = 3) -> list[Tracked]:
    lasts = {"vanilla": 70.0, "kd": 74.0, "sdd_kd": 76.0}
    return [run for method in METHODS for run in runs(method, [lasts[method] + 0.3 * n for n in range(num)])]


def test_mean_and_std_by_epoch() -> None:
    tracked = runs("kd", [74.0, 75.0, 76.0])
    line = by_epoch(context(tracked).frame, points(tracked), plan(), 0, "kd")
    assert line.loc[3].to_dict() == pytest.approx({"mean": 65.0, "std": 1.0, "num_seeds": 3})


def test_an_epoch_that_a_seed_lacks_is_left_out() -> None:
    tracked = runs("kd", [74.0, 75.0, 76.0])
    given = points(tracked)
    given.loc[(given["run_id"] == tracked[0].run_id) & (given["epoch"] == 12), "value"] = float("nan")
    line = by_epoch(context(tracked).frame, given, plan(), 0, "kd")
    assert list(line.index) == list(range(1, 12))
    # logged twice by a run that was resumed
    again = pd.concat([given, given[given["epoch"] == 2]])
    assert by_epoch(context(tracked).frame, again, plan(), 0, "kd").equals(line)


@pytest.mark.parametrize("num", [1, 3])
def test_drawn_with_a_band_from_three_seeds(num: int) -> None:
    tracked = all_runs(num)
    (figure,) = drawings(curves(context(tracked, epochs=points(tracked)))).values()
    check_drawn(figure)
    (axes,) = figure.axes
    assert len(axes.lines) == 3
    assert len(axes.collections) == (3 if num == 3 else 0)
    assert axes.get_title(loc="left") == "resnet32x4 → shufflenet_v1"


def test_many_pairs_are_several_figures() -> None:
    pairs = [PAIR, *(f"{teacher}:shufflenet_v1" for teacher in ("wrn_40_2", "resnet50", "vgg13", "resnet110"))]
    tracked = [run for pair in pairs for run in runs("kd", [74.0, 74.5, 75.0], pair=pair, name=pair)]
    made = plan(methods=("kd",), pairs=pairs)
    found = drawings(curves(context(tracked, made, epochs=points(tracked))))
    assert list(found) == ["curves_1", "curves_2"]
    for figure in found.values():
        check_drawn(figure)


def test_many_methods_of_a_pair_have_a_panel_per_family() -> None:
    assert families(["vanilla", "at", "kd", "sdd_ls_kd", "sdd_kd", "rkd"]) == [
        ["kd", "sdd_ls_kd", "sdd_kd"],
        ["at", "rkd"],
    ]
    methods = (*METHODS, "ls_kd", "sdd_ls_kd", "dkd", "sdd_dkd", "at", "cc", "pkt", "rkd", "sp", "vid")
    tracked = [run for method in methods for run in runs(method, [74.0, 74.5, 75.0])]
    found = drawings(curves(context(tracked, plan(methods), epochs=points(tracked))))
    shown: list[str] = []
    for figure in found.values():
        check_drawn(figure)
        for axes in filter(Axes.get_visible, figure.axes):
            legend = axes.get_legend()
            assert legend is not None
            first, *others = (text.get_text() for text in legend.get_texts())
            assert first == title_of("vanilla")
            shown += others
    assert sorted(shown) == sorted(title_of(method) for method in methods if method != "vanilla")


@pytest.mark.parametrize("methods", [("kd",), (*METHODS, "ls_kd", "sdd_ls_kd", "dkd", "sdd_dkd", "at", "cc", "pkt")])
def test_a_training_of_one_epoch_has_no_half_epochs_on_its_axis(methods: tuple[str, ...]) -> None:
    tracked = [run for method in methods for run in runs(method, [74.0, 74.5, 75.0])]
    for figure in drawings(curves(context(tracked, plan(methods), epochs=points(tracked, epochs=1)))).values():
        figure.draw_without_rendering()
        for axes in filter(Axes.get_visible, figure.axes):
            low, high = axes.get_xlim()
            assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_nothing_to_draw() -> None:
    tracked = all_runs()
    unfinished = runs("kd", [75.0], status="RUNNING")
    for made in (context(), context(tracked), context(unfinished, epochs=points(unfinished))):
        assert not curves(made)


def test_curves_that_lie_on_each_other_are_enlarged_at_their_end() -> None:
    tracked = all_runs()
    apart, close = points(tracked, epochs=30), points(tracked, epochs=6)  # short: shown whole, from 45% on
    close["value"] -= close["run_id"].str.startswith("sdd_kd") * 1.8
    close["value"] += close["run_id"].str.startswith("vanilla") * 4.0
    insets = []
    for given in (apart, close):
        (figure,) = drawings(curves(context(tracked, epochs=given))).values()
        check_drawn(figure)
        insets.append([inset for axes in figure.axes for inset in axes.child_axes])
    assert not insets[0]
    (inset,) = insets[1]
    assert len(inset.lines) == 3
    assert min(line.get_xdata().min() for line in inset.lines) == 5  # type: ignore[union-attr]
