"""The rule: by hand, on its edges, and how often it is wrong when the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmark.analysis import stats
from benchmark.analysis.decision import LEVEL, Decision, Outcome, Question, combined, decide, interval_note, reach


def question(differences: Sequence[float], published: float | None = None) -> Question:
    values = tuple(map(float, differences))
    return Question(stats.PairedDifference(values, *stats.mean_std(values), None) if values else None, published)


def alone(differences: Sequence[float], published: float | None = None) -> Decision:
    (decision,) = decide([question(differences, published)])
    return decision


@pytest.mark.parametrize(
    ("differences", "published", "word", "because"),
    [
        # 1.0333 with half-width 0.143
        ([1.0, 1.1, 1.0], None, "holds here", "interval above 0"),
        ([1.0, 1.1, 1.0], 0.5, "reproduced", "interval above 0"),
        ([-1.0, -1.1, -1.0], None, "does not hold here", "interval below 0"),
        ([-1.0, -1.1, -1.0], 0.5, "not reproduced", "interval below 0"),
        # mean 0, std 0.1: half-width 0.2484
        ([-0.1, 0.0, 0.1], 0.25, "not reproduced", "includes 0, excludes the published gain"),
        ([-0.1, 0.0, 0.1], 0.24, "open", "interval includes 0, and the published gain"),
        ([-0.1, 0.0, 0.1], None, "open", "interval includes 0"),
        # a published loss is no gain that could be excluded
        ([-0.1, 0.0, 0.1], -0.5, "open", "interval includes 0"),
        # nor one that could be reproduced
        ([1.0, 1.1, 1.0], -0.5, "holds here", "interval above 0"),
        ([-1.0, -1.1, -1.0], -0.5, "does not hold here", "interval below 0"),
        ([1.0, 1.1], 0.1, "open", "2 of at least 3 seeds"),
        ([], 0.1, "open", "no shared seed"),
        ([1.0, 1.0, 1.0], None, "open", "every seed gave the same difference: no spread to judge by"),
    ],
)
def test_the_rule(differences: list[float], published: float | None, word: str, because: str) -> None:
    decision = alone(differences, published)
    assert (decision.word, decision.because) == (word, because)


def test_an_interval_excludes_0_exactly_where_its_outcome_says_so() -> None:
    """Whatever else is in the family: one interval, one outcome."""
    random = np.random.default_rng(0)
    decided = 0
    for _ in range(300):
        asked = [question(random.normal(random.choice([0.0, 1.0, 3.0]), 1.0, 4).tolist()) for _ in range(6)]
        for one in decide(asked):
            assert one.interval is not None
            low, high = one.interval
            assert (low > 0, high < 0) == (one.outcome is Outcome.HOLDS, one.outcome is Outcome.DOES_NOT_HOLD)
            decided += one.outcome is not Outcome.OPEN
    assert 300 < decided < 1500


def test_a_family_widens_every_interval() -> None:
    clear, nothing = [1.0, 1.2, 1.1], [-0.1, 0.0, 0.1]
    assert alone(clear).confidence == pytest.approx(0.95)
    family = decide([question(clear), question(nothing), question(nothing), question(nothing)])
    # one of four excludes 0: 1 - 0.05 / 4
    assert [one.confidence for one in family] == pytest.approx([0.9875] * 4)
    assert family[0].adjusted_p == pytest.approx(4 * (alone(clear).p or 0))
    # what cannot be tested does not count
    assert decide([question(clear), question([1.0]), question([])])[0].confidence == pytest.approx(0.95)


def test_at_most_a_twentieth_of_what_is_decided_is_wrong() -> None:
    """Methods that share their base, four seeds: half of the gains are nothing at all."""
    random = np.random.default_rng(1)
    true = np.array([0.0, 0.0, 0.0, 0.0, 3.0, 3.0, -3.0, 5.0])
    shares, found = [], 0
    for _ in range(400):
        base = random.normal(size=4)
        decisions = decide(question((gain + random.normal(size=4) - base).tolist()) for gain in true)
        decided = [(one.outcome is Outcome.HOLDS, gain) for one, gain in zip(decisions, true, strict=True)
                   if one.outcome is not Outcome.OPEN]  # fmt: skip
        wrong = sum(gain == 0 or holds != (gain > 0) for holds, gain in decided)
        shares.append(wrong / max(len(decided), 1))
        found += len(decided)
    assert np.mean(shares) < LEVEL
    assert found > 400, "and something is found"


def test_seeds_that_would_decide() -> None:
    decision = alone([-0.1, 0.4, 0.6])
    assert decision.seeds is not None
    std = decision.difference.std if decision.difference else None
    assert std is not None
    mean = decision.difference.mean if decision.difference else 0.0
    assert stats.minimum_detectable_effect(std, decision.seeds) <= mean  # type: ignore[operator]
    assert stats.minimum_detectable_effect(std, decision.seeds - 1) > mean  # type: ignore[operator]
    # to exclude a published gain is quicker where that is further away than 0
    assert (alone([-0.1, 0.4, 0.6], 1.0).seeds or 99) < decision.seeds
    assert alone([1.0, 1.1, 1.0]).seeds is None, "decided"
    assert alone([1.0, 1.1]).seeds is None, "no spread is known"
    assert alone([-1.0, 0.001, 1.0]).seeds is None, "more than anyone would train"
    assert decision.outcome_text == f"open (≈ {decision.seeds} seeds)"


def test_seeds_that_would_decide_do() -> None:
    """In 8 of 10 repeats, when the measured difference and spread are the true ones."""
    decision = alone([-0.1, 0.4, 0.6])
    assert decision.difference is not None
    assert decision.seeds is not None
    random = np.random.default_rng(2)
    samples = random.normal(decision.difference.mean, decision.difference.std or 0, (2000, decision.seeds))
    held = np.mean([alone(sample.tolist()).outcome is Outcome.HOLDS for sample in samples])
    assert 0.78 < held < 0.88


def test_a_claim_needs_all_its_differences() -> None:
    yes, no, open_ = alone([1.0, 1.1, 1.0]), alone([-1.0, -1.1, -1.0]), alone([1.0])
    assert combined([yes, yes]) is Outcome.HOLDS
    assert combined([yes, open_]) is Outcome.OPEN
    assert combined([yes, open_, no]) is Outcome.DOES_NOT_HOLD
    assert combined([]) is Outcome.OPEN


def test_notes_say_what_few_seeds_can_find() -> None:
    # 3.264 standard deviations: see the printed power tables in test_stats.py
    assert "3 seeds (2 degrees of freedom) a true difference of 3.3 standard deviations" in reach(3, 0.95)
    assert "p = 0.25" in reach(3, 0.95)
    note = interval_note(decide([question([1.0, 1.2, 1.1]), question([-0.1, 0.0, 0.1])]))
    assert note.startswith("[97.5%]")
    assert "(1 of 2 exclude 0)" in note
    assert "3 seeds" in note
    assert "degrees of freedom" not in interval_note(decide([question(range(10))]))
