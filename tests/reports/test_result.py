"""The first page of a report: the best method, the claims, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from benchmark import run
from benchmark.analysis.decision import Outcome
from benchmark.commands import train
from benchmark.tracking import Tracked
from reports.base import Context
from reports.sections.result import leaders, next_step, result
from tests.reports.frames import (
    PAIR,
    check_drawn,
    commands,
    context,
    drawings,
    plan,
    rows,
    runs,
    shown,
    tables,
    words,
)
from tests.reports.test_ablations import varied

ALONE, KD = [71.0, 71.5, 71.2], [74.0, 74.9, 74.1]
#: better and worse than KD by the seed
OPEN = [73.0, 77.8, 74.2]


def finished(tracked: list[Tracked], **choice: object) -> Context:
    """A context whose planned runs are all finished."""
    made = context(tracked, plan(**choice))  # type: ignore[arg-type]
    signatures = {(one.tags["student"], one.tags["method"], one.tags["seed"]): one.signature for one in tracked}
    planned = [
        (one, signatures[one.config.student, one.config.method, str(one.config.repetition)]) for one in made.plan.runs
    ]
    made.__dict__["planned"] = tuple(planned)
    return made


def example(sdd: Sequence[float]) -> Context:
    return finished([*runs("vanilla", ALONE), *runs("kd", KD), *runs("sdd_kd", sdd)], seeds=3)


def test_the_best_method_stands_first_with_its_gain_and_lead() -> None:
    text = words(result(example([76.0, 76.8, 76.2])))
    assert text.startswith("resnet32x4 → shufflenet_v1: SD-KD reaches 76.33 ± 0.42% after the last epoch")
    assert "Its gain over KD is +2.00 [" in text
    assert "]: reproduced." in text
    assert "It leads KD by +2.00 [" in text
    assert text.endswith("every difference is decided.")
    assert "it is the best by the rule" in text
    close = words(result(example(OPEN)))
    assert "by the rule it is not separated from the others" in close


def test_the_claims_and_the_figure_are_of_the_same_decisions() -> None:
    made = example(OPEN)
    blocks = result(made)
    counts = {row["claim"]: [row[one.name.lower()] for one in Outcome] for row in rows(tables(blocks)["outcomes"])}
    assert counts == {"SD-KD is better than KD": [0, 0, 1], "KD is better than the student alone": [1, 0, 0]}
    assert next(iter(counts)) == "SD-KD is better than KD", "the paper's own claims come first"
    assert shown(tables(blocks)["outcomes"])["KD is better than the student alone"]["published"] == "+3.57"
    (figure,) = drawings(blocks).values()
    check_drawn(figure)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["KD − student", "SD-KD − KD"]


def test_mean_gains_are_over_the_pairs_that_have_a_published_one() -> None:
    alike = "resnet32x4:resnet8x4"  # no table prints both KD and SD-KD of it
    tracked = [*runs("kd", KD), *runs("sdd_kd", [76.0, 76.8, 76.2])]
    tracked += [*runs("kd", KD, pair=alike), *runs("sdd_kd", [80.0, 80.8, 80.2], pair=alike)]
    made = context(tracked, plan(methods=("kd", "sdd_kd"), pairs=[PAIR, alike]))
    table = tables(result(made))["outcomes"]
    assert shown(table)["SD-KD is better than KD"]["mean gain"] == "+2.00"
    assert shown(table)["SD-KD is better than KD"]["published"] == "+2.23"
    assert "averaged over those with a published gain" in table.subtitle


def test_a_claim_about_a_part_stands_in_one_row() -> None:
    pairs = [PAIR, "vgg13:vgg8", "wrn_40_2:shufflenet_v1"]  # unlike, like, unlike
    others = [one for pair in pairs for part in ([1, 2], [1, 2, 4]) for one in varied(76.0, pair=pair, scales=part)]
    made = context([*runs("kd", KD), *runs("sdd_kd", [76.0, 76.8, 76.2])], plan(pairs=pairs), others)
    claims = [row["claim"] for row in rows(tables(result(made))["outcomes"])]
    assert len(claims) == len(set(claims))
    found = shown(tables(result(made))["outcomes"])
    assert found["scales {1, 2, 4} are the best for unlike networks"]["outcome"] == "2 open"


def test_many_pairs_are_a_table() -> None:
    names = [PAIR, "wrn_40_2:shufflenet_v1", "resnet50:vgg8"]
    lasts = {"kd": KD, "sdd_kd": [76.0, 76.8, 76.2]}
    tracked = [
        one
        for number, pair in enumerate(names)
        for method, values in lasts.items()
        for one in runs(method, values, pair=pair, name=f"{method}{number}")
    ]
    made = context(tracked, plan(methods=("kd", "sdd_kd"), pairs=names))
    assert [one.pair for one in leaders(made)] == names
    assert list(shown(tables(result(made))["best"])) == [name.replace(":", " → ") for name in names]


@pytest.mark.parametrize("given", [(), ("cifar100", "--seeds", "3", "--runs", "elsewhere")])
def test_seeds_that_decide_most_are_one_command(given: tuple[str, ...]) -> None:
    made = example(OPEN)
    made.__dict__["arguments"] = given
    needed = next(one.decision.seeds for one in made.gains if one.comparison.method == "sdd_kd")
    blocks = next_step(made)
    command = commands(blocks)
    words_ = shlex.split(command)
    assert words_.count("--seeds") == 1
    assert words_[words_.index("--seeds") + 1] == str(needed)
    chosen = train.plan_of(run.parser().parse_args(words_[3:]), "cpu")
    assert (chosen.methods, chosen.seeds) == (("kd", "sdd_kd"), needed)
    assert [pair.name for pair in chosen.pairs] == [PAIR]
    assert ("--runs elsewhere" in command) == bool(given)


def test_what_is_missing_comes_before_more_seeds() -> None:
    missing = context(runs("kd", KD), plan(seeds=3))
    missing.__dict__["planned"] = tuple((one, None) for one in missing.plan.runs)
    assert "--seeds" not in commands(next_step(missing))
    few = finished([*runs("kd", KD[:2]), *runs("sdd_kd", [76.0, 76.5])], methods=("kd", "sdd_kd"), seeds=2)
    assert "--seeds 3" in commands(next_step(few))
    same = finished([*runs("kd", KD), *runs("sdd_kd", KD)], methods=("kd", "sdd_kd"), seeds=3)
    assert not commands(next_step(same)), "no number of seeds can be told without a spread"
    why = "1 of 1 differences is open: every seed gave the same difference: no spread to judge by."
    assert words(next_step(same)) == why
    alike = "resnet32x4:resnet8x4"  # without a published gain that could be excluded
    lasts = {"kd": KD, "sdd_kd": [KD[0] + 1, KD[1] + 0.001, KD[2] - 1]}
    tracked = [one for method, values in lasts.items() for one in runs(method, values, pair=alike)]
    close = finished(tracked, methods=("kd", "sdd_kd"), pairs=[alike], seeds=3)
    assert words(next_step(close)) == "1 of 1 differences is open: more than 100 seeds would be needed."
