"""What every study promises; a new file is under test as soon as it exists."""

from __future__ import annotations

import sys
from functools import cache

import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.trial import FixedTrial, TrialState

from benchmark import catalogue
from benchmark.analysis import published
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from studies import questions
from studies.base import Choice, Study
from tests.studies.synthetic import as_frame, synthetic
from tests.studies.texts import unreadable

optuna.logging.set_verbosity(optuna.logging.ERROR)

STUDIES = questions.names()
SUITES = ("digits", "cifar100")
TITLE = "sdd_beta_continuous on cifar100 resnet32x4 to shufflenet_v1"


@pytest.fixture(params=STUDIES)
def definition(request: pytest.FixtureRequest) -> Study:
    return questions.registry.get(request.param)()


def choices(definition: Study, drawn: int = 12) -> list[Choice]:
    """Every choice of a grid, or some of a sampler's."""
    if definition.grid():
        return [definition.suggest(FixedTrial(dict(point))) for point in definition.grid()]
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [definition.suggest(sampled.ask()) for _ in range(drawn)]


@cache
def loaded(name: str) -> suite.Suite:
    return suite.load(name)


def planned(choice: Choice, name: str, pair: str | None = None) -> Plan:
    pair = pair or loaded(name).pairs[0].name
    return make_plan(loaded(name), methods=[choice.method], pairs=[pair], seeds=1, assignments=list(choice.assignments))


def test_is_described(definition: Study) -> None:
    assert definition.question.endswith("?")
    assert definition.published
    assert type(definition).__doc__
    assert sys.modules[type(definition).__module__].__doc__
    assert (definition.sampler == "grid") == bool(definition.grid())
    assert definition.trials >= 1 and definition.at_once >= 1 and definition.seeds >= 1


def test_pairs_and_tables_exist(definition: Study) -> None:
    known = {pair.name for name in catalogue.suites() for pair in loaded(name).pairs}
    assert definition.pairs and set(definition.pairs) <= known
    assert len(definition.published_lines()) >= len(definition.tables)
    for name in definition.tables:
        assert published.ablation(name).unit == "percent"
        assert {*definition.pairs, None} & {row.pair for row in published.ablation(name).rows}
        for pair in definition.pairs:
            assert definition.published_lines(pair)


def test_published_points_are_points_of_the_grid(definition: Study) -> None:
    """Written as a trial writes them: otherwise they would stand in rows of their own."""
    if definition.grid() and definition.tables:
        parameter = next(iter(definition.grid()[0]))
        levels = [point[parameter] for point in definition.grid()]
        assert {level for line in definition.published_lines() for level, _ in line.points} <= set(levels)


def test_grid_points_are_distinct_and_suggest_themselves(definition: Study) -> None:
    """Enqueued as the search does it: a point must come back whole, and nothing may be drawn beside it."""
    made = optuna.create_study(direction="maximize")
    points = [dict(point) for point in definition.grid()]
    for point in points:
        made.enqueue_trial(point)
    for point in points:
        trial = made.ask()
        assert definition.suggest(trial) == definition.suggest(FixedTrial(point))
        assert trial.params == point
        assert all(isinstance(value, str | float | int) for value in point.values())
    found = choices(definition)
    assert len({choice.label for choice in found}) == len(found)


@pytest.mark.parametrize("name", SUITES)
def test_every_choice_can_be_planned(definition: Study, name: str) -> None:
    found = choices(definition)
    runs = [planned(choice, name).runs[0].config for choice in found]
    for choice, run in zip(found, runs, strict=True):
        assert run.method == choice.method
        for path, value in choice.settings.items():
            group, dot, field = path.partition(".")
            if dot:
                asked = list(value) if isinstance(value, tuple) else value
                assert {**run.parameters, "recipe": run.recipe.model_dump(mode="json")}[group][field] == asked
    if definition.grid():
        # no two points train the same student
        assert len({run.signature("", "") for run in runs}) == len(runs)


@pytest.mark.parametrize("name", SUITES)
def test_baselines(definition: Study, name: str) -> None:
    found = definition.baselines()
    assert found and all(planned(choice, name).runs for choice in found)
    # those of a suite are the published ones of each of its pairs
    assert not any(choice.settings for choice in found)
    assert len({choice.label for choice in found}) == len(found)


@cache
def _ended(definition: type[Study]) -> pd.DataFrame:
    return as_frame(synthetic(definition()))


def ended(definition: Study) -> pd.DataFrame:
    """The trials of a study that ran to its end."""
    return _ended(type(definition)).copy()


def test_findings_are_sentences_of_what_has_ended(definition: Study) -> None:
    frame = ended(definition)
    for part in (frame, frame.head(1), frame.assign(state="fail", value=None)):
        for sentence in definition.findings(part):
            assert sentence.endswith(".") and "nan" not in sentence
    assert not definition.findings(frame.assign(state="fail", value=None))


def readable(figure: Figure) -> None:
    assert not unreadable(figure)


def test_figure_with_and_without_published_points(definition: Study) -> None:
    frame = ended(definition)
    without_published = definition.figure(frame, TITLE, lines=())
    assert len(without_published.axes) >= 1
    readable(without_published)
    if definition.tables:  # otherwise no lines are all lines
        with_published = definition.figure(frame, TITLE)
        readable(with_published)
        assert len(with_published.axes) == 2
    else:
        assert not definition.published_lines()


def test_figure_with_trials_that_did_not_end_well(definition: Study) -> None:
    states = {0: TrialState.FAIL, 2: TrialState.PRUNED}
    readable(definition.figure(as_frame(synthetic(definition, states)), TITLE))
    everything = dict.fromkeys(range(100), TrialState.FAIL)
    readable(definition.figure(as_frame(synthetic(definition, everything)), TITLE))


def test_figure_of_one_trial(definition: Study) -> None:
    frame = ended(definition).head(1)
    readable(definition.figure(frame, TITLE))
    bare = frame.drop(columns=[name for name in frame if "." in str(name)])
    readable(definition.figure(bare.assign(state="fail", value=None), TITLE))
