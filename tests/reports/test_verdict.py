"""The differences and claims of synthetic runs, and the one decision that every part of a report shows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmark.analysis.comparison import comparison as bench_table
from benchmark.analysis.decision import RULE
from benchmark.plan.suite import Pair
from benchmark.tracking import Tracked
from reports.base import Text
from reports.sections.comparison import ARROWS, overview
from reports.sections.result import result
from reports.sections.verdict import are_alike, claimed_best, ranking, verdict
from tests.reports.frames import PAIR, context, plan, rows, runs, shown, tables, words
from tests.reports.test_ablations import everything, varied

KD, SDD = [75.0, 75.2, 75.4], [76.0, 76.3, 76.4]


def by_claim(others: Sequence[Tracked] = (), **choice: object) -> dict[str, str]:
    blocks = verdict(context([], plan(**choice), others))  # type: ignore[arg-type]
    return {row["claim"]: row["outcome"] for row in rows(tables(blocks)["claims"])}


def outcome_of(tracked: list[Tracked], **choice: object) -> str:
    made = plan(**choice)  # type: ignore[arg-type]
    found = rows(tables(verdict(context(tracked, made)))["differences"])
    return str(next(row["outcome"] for row in found if row["method"] == "sdd_kd"))


def test_the_rule_stands_first() -> None:
    for made in (context(), context([*runs("kd", KD), *runs("sdd_kd", SDD)])):
        first = verdict(made)[0]
        assert isinstance(first, Text)
        assert first.text == RULE


def test_values_are_those_of_the_frame() -> None:
    blocks = verdict(context([*runs("kd", KD), *runs("sdd_kd", SDD), *runs("vanilla", [70.0, 71.0, 70.0])]))
    found = {row["method"]: row for row in rows(tables(blocks)["differences"])}
    # differences 1.0, 1.1, 1.0: mean 1.0333, half-width 4.3027 * 0.057735 / sqrt(3) = 0.14342; t = 31
    assert found["sdd_kd"]["difference"] == 1.0333
    assert (found["sdd_kd"]["low"], found["sdd_kd"]["high"]) == (0.8899, 1.1768)
    assert found["sdd_kd"]["p"] == pytest.approx(1 - 31 / (31**2 + 2) ** 0.5)
    # the smaller of two, both found: twice as large
    assert found["sdd_kd"]["p_adjusted"] == pytest.approx(2 * found["sdd_kd"]["p"])
    # Table 2 prints 76.30 and 74.07
    assert found["sdd_kd"]["published"] == 2.23
    assert found["sdd_kd"]["outcome"] == "reproduced"
    assert found["kd"]["base"] == "vanilla"
    text = shown(tables(blocks)["differences"])["SD-KD − KD"]
    assert text["mean"] == "+1.03"
    assert text["interval [95%]"] == "[+0.89, +1.18]"
    assert found["sdd_kd"]["run_ids"].split()[0] == "sdd_kd-shufflenet_v1-1"
    assert "hold for this teacher: resnet32x4" in words(blocks)


def test_words_are_the_papers_only_where_it_is_the_papers_experiment() -> None:
    better = [*runs("kd", KD), *runs("sdd_kd", SDD)]
    assert outcome_of(better) == "reproduced"
    assert outcome_of(better, assignments=["recipe.epochs=100"]) == "holds here"
    assert outcome_of(better, profile="smoke") == "holds here"
    # a spread of 0.1 excludes a gain of 2.23
    same = [*runs("kd", KD), *runs("sdd_kd", [75.1, 75.2, 75.3])]
    assert outcome_of(same) == "not reproduced"
    assert outcome_of(same, assignments=["recipe.epochs=100"]) == "open"
    assert outcome_of([*runs("kd", KD[:2]), *runs("sdd_kd", SDD[:2])]) == "open"
    assert outcome_of([*runs("kd", KD), *runs("sdd_kd", KD)]) == "open", "no spread"


@pytest.mark.parametrize("num", [1, 2])
def test_few_seeds_are_marked(num: int) -> None:
    blocks = verdict(context([*runs("kd", KD[:num]), *runs("sdd_kd", SDD[:num])]))
    row = shown(tables(blocks)["differences"])["SD-KD − KD"]
    assert "†" in row["mean"]
    assert (row["interval [95%]"], row["p"], row["p, adjusted"], row["detectable"]) == ("—", "—", "—", "—")
    assert row["outcome"] == "open"


def test_every_part_of_a_report_and_the_command_say_the_same() -> None:
    """The fault that this mends: one section said "no evidence", another one "reproduced"."""
    tracked = [
        *runs("vanilla", [71.0, 71.5, 71.2]),
        *runs("kd", [74.0, 74.9, 74.1]),
        *runs("sdd_kd", [75.0, 76.0, 78.0]),
        *runs("dkd", [70.0, 70.4, 70.3]),
        *runs("sdd_dkd", [76.0, 76.5, 76.3]),
    ]
    made = context(tracked, plan(methods=("vanilla", "kd", "sdd_kd", "dkd", "sdd_dkd")))
    in_verdict = {row["method"]: row["outcome"] for row in rows(tables(verdict(made))["differences"])}
    table = bench_table(made.plan, made.frame, {})
    in_command = {str(row["method"]): row["gain_outcome"] for row in rows(table) if row["gain_outcome"]}
    assert in_verdict == in_command
    assert len(set(in_verdict.values())) > 1
    in_result = [row["claim"] + ": " + cell for row, cell in zip(
        rows(tables(result(made))["outcomes"]),
        [text["outcome"] for text in shown(tables(result(made))["outcomes"]).values()], strict=True)]  # fmt: skip
    assert f"SD-KD is better than KD: {in_verdict['sdd_kd']}" in in_result
    assert f"SD-DKD is better than DKD: {in_verdict['sdd_dkd']}" in in_result
    in_overview = shown(overview(made, made.plan.pairs))
    for method, title in (("sdd_kd", "SD-KD"), ("sdd_dkd", "SD-DKD"), ("kd", "KD"), ("dkd", "DKD")):
        gain = next(one for one in made.gains if one.comparison.method == method)
        assert in_overview[title][PAIR].endswith(f"{ARROWS[gain.decision.outcome]})")


def test_claims_about_parts() -> None:
    jittered = [
        run if "'beta'" in run.run_id else run.__class__(**{**run.__dict__, "metrics": shaken(run, number)})
        for number, run in enumerate(everything(4))
    ]
    found = by_claim(jittered)
    assert found["scales {1, 2, 4} are the best for unlike networks"] == "open"
    # every level has the same differences between seeds: no spread, nothing is decided
    assert by_claim(everything())["weight 2 of complementary regions is the best"] == "open"


def shaken(run: Tracked, number: int) -> dict[str, float]:
    return {name: value + (number * 7919 % 13) / 10 for name, value in run.metrics.items()}


def apart(beta: float, values: Sequence[float]) -> list[Tracked]:
    """Runs with another weight of complementary regions."""
    made = varied(0.0, len(values), beta=beta)
    figures = [{"final/last": value, "final/best_selected_on_test": value} for value in values]
    return [run.__class__(**{**run.__dict__, "metrics": one}) for run, one in zip(made, figures, strict=True)]


def test_a_claim_that_a_weight_is_the_best() -> None:
    best = apart(2.0, [76.0, 76.1, 76.3])
    worse = [run for beta in (1.0, 4.0, 6.0, 8.0) for run in apart(beta, [75.0, 75.1, 75.2])]
    claim = "weight 2 of complementary regions is the best"
    assert by_claim([*best, *worse])[claim] == "reproduced"
    assert by_claim([*best, *worse], assignments=["recipe.clip_norm=5"])[claim] == "holds here"
    assert by_claim([*best, *worse[:-3]])[claim] == "open", "one of the published weights was not run"
    assert by_claim([*best, *worse[:-3], *apart(8.0, [79.0, 79.2, 79.1])])[claim] == "not reproduced"


def test_gaps_point_to_the_commands() -> None:
    blocks = verdict(context())
    assert "nothing can be compared yet" in words(blocks)
    assert "Open, since no runs vary this part alone" in words(blocks)
    assert not tables(blocks)


def test_nan_and_unfinished_runs_do_not_count() -> None:
    tracked = [*runs("kd", [*KD, float("nan")]), *runs("sdd_kd", [*SDD, 99.0])]
    tracked += runs("kd", [1.0], first=5, status="FAILED") + runs("sdd_kd", [99.0], first=5)
    (one,) = [gain for gain in context(tracked).gains if gain.decision.difference]
    assert one.decision.difference is not None
    assert one.decision.difference.num_seeds == 3


def test_ranks_are_over_whole_pairs_and_need_two() -> None:
    names = [PAIR, "wrn_40_2:shufflenet_v1", "resnet50:vgg8"]
    made = plan(methods=("kd", "sdd_kd"), pairs=names)
    one_pair = [*runs("kd", KD), *runs("sdd_kd", SDD), *runs("kd", KD, pair=names[1], name="other")]
    assert ranking(made, context(one_pair, made).frame) is None
    both = [*one_pair, *runs("kd", KD, pair=names[2], name="x"), *runs("sdd_kd", SDD, pair=names[2], name="y")]
    table = ranking(made, context(both, made).frame)
    assert table is not None
    assert [(row["method"], row["average_rank"], row["num_pairs"]) for row in rows(table)] == [
        ("sdd_kd", 1.0, 2),
        ("kd", 2.0, 2),
    ]


@pytest.mark.parametrize(
    ("pair", "alike"),
    [
        ("resnet32x4:resnet8x4", True),
        ("wrn_40_2:wrn_16_2", True),
        ("vgg13:vgg8", True),
        ("torchvision/resnet34:torchvision/resnet18", True),
        ("resnet32x4:shufflenet_v1", False),
        ("wrn_40_2:vgg8", False),
    ],
)
def test_like_networks(pair: str, alike: bool) -> None:
    teacher, student = pair.split(":")
    of = Pair(teacher=teacher, student=student)
    assert are_alike(of) is alike
    assert claimed_best("scales", of) == ((1, 2) if alike else (1, 2, 4))
