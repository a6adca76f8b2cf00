"""Standardized logits, scale decoupling, or both: do the two add up?

Space: a 2 x 2 for each base loss: `ls` and `sdd`, each `without` or `with`: the method, its `ls_` form, its `sdd_` form
and `sdd_ls_`, where every region is standardized by itself.
Base losses: KD and DKD. LS is taken as published: with it go temperature 2 and a weight of 9 instead of 4 and 0.9 for
KD, 4 and 1 for DKD, so that what it gains is not standardization's alone; SDD keeps the settings of what it decouples.
Budget: 8 trials of 3 seeds, all at once. A suite of few epochs must set the warm-up of all four forms of DKD alike, as
`digits` does.
Pairs: resnet32x4:resnet8x4 and resnet32x4:shufflenet_v2.
Published: LS alone: KD 73.33, KD+LS 76.62, DKD 76.32, DKD+LS 77.01 (resnet32x4:resnet8x4, best epoch, mean of 4; Sun et
al., CVPR 2024, Table 1). Both: DSKD prints a row DKD+SDD+LS, whose code has no region weights: it multiplies the mean
loss by the batch's mean weight, which is this suite's control `sdd.weights=mean`, not SDD. The 2 x 2 is not published.
Figure: accuracy without and with LS, a line without and one with SDD, a panel per base loss: parallel where the two
add up. The panel's heading has the interaction, (both − LS) − (SDD − neither), with the interval of the one rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from benchmark.analysis import stats
from benchmark.analysis.decision import Decision, Outcome, Question, confidence_text, decide
from benchmark.analysis.methods import title_of
from studies import figures, paired
from studies.base import Choice, PublishedLine, Study, every, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BASES = ("kd", "dkd")
LEVELS = ("without", "with")
#: the differences that are decided for a base loss, in words
DIFFERENCES = ("LS alone", "SDD alone", "both", "interaction")
ADDS_UP = {
    Outcome.HOLDS: "together they gain more than the sum",
    Outcome.DOES_NOT_HOLD: "together they gain less than the sum",
    Outcome.OPEN: "no evidence that they do not add up",
}


@register
class LSOrSDD(Study):
    """Each of LS and SDD, both, and neither."""

    name = "ls_or_sdd"
    question = "Do standardized logits and scale decoupling add up?"
    published = (
        "each alone gains: KD 73.33, KD+LS 76.62, DKD 76.32, DKD+LS 77.01 (resnet32x4:resnet8x4; Sun et al., CVPR 2024,"
        " Table 1); DSKD's DKD+SDD+LS is without region weights; the four side by side are not published"
    )
    pairs = ("resnet32x4:resnet8x4", "resnet32x4:shufflenet_v2")
    at_once = len(BASES) * len(LEVELS) ** 2
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        base = trial.suggest_categorical("base", BASES)
        ls = "ls_" if trial.suggest_categorical("ls", LEVELS) == "with" else ""
        sdd = "sdd_" if trial.suggest_categorical("sdd", LEVELS) == "with" else ""
        return Choice(f"{sdd}{ls}{base}", {})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"base": BASES, "ls": LEVELS, "sdd": LEVELS})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_ls_kd", {}), Choice("sdd_kd", {}), Choice("ls_kd", {}), Choice("kd", {})

    def findings(self, frame: pd.DataFrame) -> Sequence[str]:
        decided = _decided(frame)
        confidence = confidence_text([one for row in decided.values() for one in row])
        found = []
        for base, decisions in decided.items():
            if decisions[-1].difference is None:
                continue
            words = ", ".join(f"{name} {one.text}" for name, one in zip(DIFFERENCES, decisions, strict=True))
            found.append(
                f"{title_of(base)}, gains in points [{confidence}]: {words}: {ADDS_UP[decisions[-1].outcome]}."
            )
        return found

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.interaction(
            frame,
            "ls",
            order=LEVELS,
            named=lambda level: f"{level} LS",
            by="sdd",
            named_by=lambda level: f"{level} SDD",
            panel="base",
            panels={base: _heading(base, decisions[-1]) for base, decisions in _decided(frame).items()},
            title=title,
        )


def _heading(base: str, interaction: Decision) -> str:
    """Write the heading of a base loss's panel."""
    if interaction.difference is None:
        return title_of(base)
    return f"{title_of(base)}: interaction\n{interaction.text}, {interaction.word}"


def _decided(frame: pd.DataFrame) -> dict[str, list[Decision]]:
    """Decide the differences of both base losses as one family; those of `DIFFERENCES` for each."""
    values = paired.by_seed(frame, ("base", "ls", "sdd"))
    asked = [question for base in BASES for question in _questions(values, base)]
    decided = decide(asked)
    num = len(DIFFERENCES)
    return {base: decided[place * num :][:num] for place, base in enumerate(BASES)}


def _questions(values: Mapping[tuple[Any, ...], pd.Series[float]], base: str) -> list[Question]:
    neither, sdd, ls, both = (values[base, *levels] for levels in itertools.product(LEVELS, LEVELS))
    return [
        Question(stats.paired_difference(a, b))
        for a, b in ((ls, neither), (sdd, neither), (both, neither), (both + neither, ls + sdd))
    ]
