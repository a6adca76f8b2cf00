"""The figures that studies share: what they show, and that every text can be read."""

from __future__ import annotations

import datetime
import re

import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState

from studies import figures, questions
from studies.base import PublishedLine
from tests.studies.synthetic import as_frame, synthetic
from tests.studies.texts import shown, texts_of, unreadable

optuna.logging.set_verbosity(optuna.logging.ERROR)
STATES = {1: TrialState.FAIL, 5: TrialState.PRUNED, 6: TrialState.PRUNED}
TITLE = "sdd_joint on cifar100 resnet32x4 to shufflenet_v1"


def of(name: str, states: dict[int, TrialState] | None = None) -> optuna.Study:
    return synthetic(questions.registry.get(name)(), states)


@pytest.fixture(scope="module")
def joint() -> optuna.Study:
    """Forty trials of three parameters, of which one failed and two were pruned."""
    return of("sdd_joint", STATES)


def rows(**columns: list[object]) -> pd.DataFrame:
    num = len(columns["value"])
    return pd.DataFrame(
        {"number": range(num), "state": ["COMPLETE"] * num, "std": [None] * num, "num_seeds": [1] * num, **columns}
    )


def drawn(figure: Figure, axes: int = 0) -> list[tuple[float, float]]:
    """Every marker of a panel."""
    points = []
    for line in figure.axes[axes].lines:
        if line.get_marker() not in ("", "None", None, "_", "|"):
            points += [(float(x), float(y)) for x, y in line.get_xydata()]  # type: ignore[union-attr]
    return points


def test_completed_are_those_with_a_value_whatever_the_case_of_the_state() -> None:
    frame = rows(value=[70.0, None, 71.0, 72.0]).assign(state=["complete", "complete", "FAIL", "COMPLETE"])
    assert figures.completed(frame, "sdd.beta")["number"].tolist() == [0, 3]
    assert "sdd.beta" in figures.completed(frame, "sdd.beta")


def test_described_says_seeds_and_what_is_not_shown(joint: optuna.Study) -> None:
    assert figures.described(as_frame(joint)) == "one seed each, 2 pruned, 1 failed"
    frame = rows(value=[70.0, 71.0]).assign(num_seeds=[3, 3])
    assert figures.described(frame) == "mean and standard deviation of 3 seeds"
    assert figures.described(frame.assign(num_seeds=[2, 3])) == "mean and standard deviation of 2 to 3 seeds"
    assert figures.described(frame.assign(state="RUNNING")) == "no trial has ended yet"


def test_history_shows_every_value_and_the_best_so_far(joint: optuna.Study) -> None:
    frame = as_frame(joint)
    figure = figures.history(frame, TITLE)
    done = frame[frame["state"] == "COMPLETE"]
    points = set(drawn(figure))
    assert {(float(n), float(v)) for n, v in zip(done["number"], done["value"], strict=True)} <= points
    assert {1.0, 5.0, 6.0} == {x for x, y in points if y < 1}
    best = next(line for line in figure.axes[0].lines if line.get_label() == "best so far")
    assert best.get_ydata()[-1] == done["value"].max()  # type: ignore[index]
    assert {"failed", "pruned", "best so far"} <= set(texts_of(figure))


def test_lines_keep_to_their_groups_and_stand_beside_the_published_ones() -> None:
    frame = rows(
        value=[70.0, 71.0, 60.0, 61.0], T=[1.0, 2.0, 1.0, 2.0], method=["kd", "kd", "sdd_kd", "sdd_kd"]
    ).assign(std=[0.1, 0.2, 0.3, 0.4], num_seeds=3)
    published = PublishedLine("a pair", "a table", ((1.0, 80.0), (4.0, 81.0)))
    figure = figures.line_with_errors(
        frame, "T", xlabel="T", by="method", by_order=("kd", "sdd_kd"), named_by=str.upper, lines=(published,)
    )
    assert sorted(drawn(figure)) == [(1.0, 60.0), (1.0, 70.0), (2.0, 61.0), (2.0, 71.0)]
    assert drawn(figure, 1) == [(1.0, 80.0), (4.0, 81.0)]
    assert figure.axes[1].get_ylabel() == figures.PUBLISHED_ACCURACY
    assert {"KD", "SDD_KD", "a pair", "a table"} <= set(texts_of(figure))
    low, high = zip(*(sorted(y for _, y in path.vertices) for path in _error_bars(figure)), strict=True)
    assert low == pytest.approx((69.9, 70.8, 59.7, 60.6)) and high == pytest.approx((70.1, 71.2, 60.3, 61.4))


def _error_bars(figure: Figure) -> list[object]:
    return [path for collection in figure.axes[0].collections for path in collection.get_paths()]


def test_a_group_keeps_its_colour_when_another_has_no_value() -> None:
    frame = rows(value=[70.0, 60.0], T=[1.0, 1.0], method=["kd", "sdd_kd"])
    for part in (frame, frame[frame["method"] == "sdd_kd"]):
        figure = figures.line_with_errors(part, "T", xlabel="T", by="method", by_order=("kd", "sdd_kd"))
        colours = {line.get_ydata()[0]: line.get_color() for line in figure.axes[0].lines if len(line.get_xdata())}  # type: ignore[index,arg-type]
        assert colours[60.0] == figures.COLOURS[1]


def test_rows_stand_in_order_with_their_values_beside() -> None:
    frame = rows(value=[70.123, 71.0], scales=["1,2", "1"])
    published = PublishedLine("a pair", "a table", (("1", 75.0), ("1,4", 76.0)))
    figure = figures.bars(
        frame,
        "scales",
        order=("1", "1,2"),
        ylabel="scales",
        named=lambda s: f"<{s}>",
        reference="1",
        lines=(published,),
    )
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["<1>", "<1,2>", "<1,4>"]
    assert sorted(drawn(figure)) == [(70.123, 1.0), (71.0, 0.0)]
    assert drawn(figure, 1) == [(75.0, 0.0), (76.0, 2.0)]
    assert {"70.12", "71.00", "75.00", "at <1>"} <= set(texts_of(figure))


def test_groups_of_a_row_do_not_stand_on_each_other() -> None:
    frame = rows(value=[70.0, 70.0], scales=["1", "1"], method=["kd", "dkd"])
    figure = figures.bars(frame, "scales", order=("1",), ylabel="", by="method", by_order=("kd", "dkd"))
    heights = [y for _, y in drawn(figure)]
    assert heights[1] - heights[0] > 0.3


def test_panels_show_what_has_no_number_too() -> None:
    frame = rows(value=[70.0, 71.0, 72.0], scales=["1", "1,2", "1,2"], beta=[None, 2.0, 4.0], base=["kd", "kd", "dkd"])
    figure = figures.by_panel(
        frame, "beta", xlabel="beta", panel="scales", order=("1", "1,2"), by="base", by_order=("kd", "dkd")
    )
    assert drawn(figure, 0) == [(0.0, 70.0)]
    assert drawn(figure, 1) == [(2.0, 71.0), (4.0, 72.0)]
    assert figure.axes[0].get_xlabel() == "does not apply"


def test_importance_names_its_method(joint: optuna.Study) -> None:
    assert figures.why_no_importance(joint) is None
    texts = " ".join(texts_of(figures.importance(joint, TITLE)))
    assert "PED-ANOVA: the best tenth of 37 trials" in texts
    assert all(name in texts for name in ("base", "sdd.scales", "sdd.beta"))


def test_importance_is_skipped_with_a_reason() -> None:
    for name, reason in (
        ("sdd_beta_continuous", "there is one parameter, sdd.beta"),
        ("kd_temperature", "12 trials have ended, and it takes 20"),
    ):
        made = of(name)
        assert figures.why_no_importance(made) == reason
    assert figures.why_no_importance(optuna.create_study()) == "0 trials have ended, and it takes 20"
    same = optuna.create_study()
    for _ in range(20):
        trial = same.ask()
        same.tell(trial, trial.suggest_float("a", 0, 1) * 0 + trial.suggest_float("b", 0, 1) * 0)
    assert figures.why_no_importance(same) == "all trials ended with the same value"


def test_timeline_shows_when_and_how_trials_ended() -> None:
    made = optuna.create_study()
    start = datetime.datetime(2026, 1, 1)
    for number, state in enumerate((TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)):
        made.add_trial(
            optuna.trial.FrozenTrial(
                number=number, state=state, value=70.0 if state == TrialState.COMPLETE else None, trial_id=number,
                datetime_start=start + datetime.timedelta(minutes=10 * number),
                datetime_complete=start + datetime.timedelta(minutes=10 * number + 5),
                params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={},
            )
        )  # fmt: skip
    figure = figures.timeline(made, TITLE)
    bars = sorted((bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches)  # type: ignore[attr-defined]
    assert bars == [pytest.approx(pair) for pair in ((0, 5), (10, 5), (20, 5))]
    assert "time since the first trial began (min)" in texts_of(figure)
    made.ask()
    assert {"complete", "failed", "pruned", "running"} <= set(texts_of(figures.timeline(made, TITLE)))


MARKS = [figures.Mark("KD, same split and seeds", 60.0), figures.Mark("chance (10.00%)", 10.0, True, False)]


def marked(figure: Figure, value: float) -> list[tuple[int, str]]:
    """Panels, and the direction and dashes, of the lines at a value."""
    found = []
    for number, axes in enumerate(figure.axes):
        for line in axes.get_lines():
            for name, data in (("across", line.get_xdata()), ("along", line.get_ydata())):
                if len(set(data)) == 1 and len(data) == 2 and data[0] == value:
                    found.append((number, f"{name} {line.get_linestyle()}"))
    return found


def test_what_trials_are_seen_against_is_a_line_in_every_panel_of_ours() -> None:
    """The plain method always; chance where it does not take the room, or is needed; never beside published points."""
    for name, panels, direction in (("sdd_beta", [0], "along"), ("sdd_terms", [0], "across"),
                                    ("sdd_joint", [0, 1, 2, 3], "along")):  # fmt: skip
        definition = questions.registry.get(name)()
        frame = as_frame(of(name))
        figure = figures.with_marks(definition.figure(frame, TITLE), MARKS)
        assert marked(figure, 60.0) == [(panel, f"{direction} -") for panel in panels], name
        assert marked(figure, 10.0) == []
        texts = shown(figure)
        assert not unreadable(figure, texts)
        assert "KD, same split and seeds" in [text.get_text() for text in texts]
        low, high = figure.axes[0].get_xlim() if direction == "across" else figure.axes[0].get_ylim()
        assert low < 60.0 < high
        near = figures.with_marks(definition.figure(frame, TITLE), [MARKS[1]._replace(is_needed=True)])
        assert marked(near, 10.0) == [(panel, f"{direction} --") for panel in panels]
        assert texts_of(near).count("chance (10.00%)") == 1
    history = figures.with_marks(figures.history(as_frame(of("sdd_beta"))), [MARKS[1]._replace(value=72.0)])
    assert marked(history, 72.0) == [(0, "along --")]


def test_saved_is_the_same_every_time(joint: optuna.Study) -> None:
    first, second = (figures.saved(figures.history(as_frame(joint))) for _ in range(2))
    assert first.keys() == {"png", "svg"}
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert not re.search(rb"<dc:date>", first["svg"])


def test_shared_figures_can_be_read(joint: optuna.Study) -> None:
    for figure in (
        figures.history(as_frame(joint), TITLE),
        figures.importance(joint, TITLE),
        figures.timeline(joint, TITLE),
    ):
        assert not unreadable(figure)
