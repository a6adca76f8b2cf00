"""Does scale decoupling help each logit method?

Space: every method `x` that has a scale-decoupled form, as registered when the study starts (plug-ins too), those that
see one view first; and `form`, one of three of `sdd_x`:
- `alone`, scales {1}: the method itself, with the hyperparameters that its scale-decoupled form has. They are not
  always the method's own: SDD's released code gives NKD temperature 4 and gamma 8, and that is no scale decoupling;
- `decoupled`: scales and beta as the suite has them;
- `mean`: the control, as much loss on the same regions: every region weighs the batch's mean weight.
Pairs of forms share seeds, split and teacher; a method's forms stand next to each other, so that a study that is
stopped has answered for whole methods.
Base losses: all. Terms over the batch (DIST's columns, MLKD's) stay on the whole image in every form.
Budget: 3 trials of 3 seeds for each method, 12 at once: four methods on one teacher pass. A suite of few epochs must
set the warm-ups that outlast it, as `digits` does.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: for KD, DKD and NKD, a gain on each of ten pairs, without a control and NKD's with other hyperparameters
(Wei, Luo, Luo, CVPR 2024, Tables 1 and 2); for the other methods not asked, or not at equal budgets.
Figure: a row per method: what decoupling gains over the method and over the control, and what the control gains over
the method, with the intervals of the one rule for all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

import distillers
from benchmark.analysis import stats
from benchmark.analysis.decision import Decision, Question, confidence_text, decide
from benchmark.analysis.methods import title_of
from studies import figures, paired
from studies.base import Choice, PublishedLine, Study, every, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMS: Mapping[str, Mapping[str, Any]] = {
    "alone": {"sdd.scales": (1,)},
    "decoupled": {},
    "mean": {"sdd.weights": "mean"},
}
#: the differences that are decided, in words: first minus second
DIFFERENCES: Mapping[str, tuple[str, str]] = {
    "decoupled − method": ("decoupled", "alone"),
    "control − method": ("mean", "alone"),
    "decoupled − control": ("decoupled", "mean"),
}


def methods() -> list[str]:
    """The methods that have a scale-decoupled form, those with fewer views first, then by name."""
    found = [name.removeprefix("sdd_") for name in distillers.names("sdd_*")]
    return sorted(found, key=lambda name: (len(distillers.create(f"sdd_{name}").views), name))


@register
class SDDOverMethods(Study):
    """Every logit method alone, scale-decoupled, and with as much loss on regions of equal weight."""

    name = "sdd_over_methods"
    question = "Does scale decoupling help each logit method, and more than as much loss on regions of equal weight?"
    published = (
        "for KD, DKD and NKD it gains on each of ten pairs, without a control (Wei, Luo, Luo, CVPR 2024, Tables 1 and"
        " 2); the other methods were not asked, or not at equal budgets"
    )
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    at_once = 12
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        method = trial.suggest_categorical("method", methods())
        return Choice(f"sdd_{method}", FORMS[trial.suggest_categorical("form", tuple(FORMS))])

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"method": methods(), "form": tuple(FORMS)})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def findings(self, frame: pd.DataFrame) -> Sequence[str]:
        decided = _decided(frame)
        confidence = confidence_text([one for row in decided.values() for one in row])
        found = []
        for words, decisions in decided.items():
            answered = [
                (title_of(method), one)
                for method, one in zip(methods(), decisions, strict=True)
                if one.difference is not None
            ]
            if answered:
                found.append(f"{words} (intervals at {confidence}): {paired.by_outcome(answered)}.")
        return found

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        values_of = paired.by_seed(frame, ("method", "form"))
        rows = []
        for method in methods():
            values = values_of[method, "alone"]
            rows.append(title_of(method) + (f" ({values.mean():.1f})" if len(values) else ""))
        return figures.differences(
            frame, rows, _decided(frame), ylabel="method (and its validation top-1, %)", title=title
        )


def _decided(frame: pd.DataFrame) -> dict[str, list[Decision]]:
    """Decide the differences of all methods as one family; a list in the order of `methods` for each in words."""
    known = methods()
    values = paired.by_seed(frame, ("method", "form"))
    asked = [
        Question(stats.paired_difference(values[name, first], values[name, second]))
        for first, second in DIFFERENCES.values()
        for name in known
    ]
    decided = decide(asked)
    return {words: decided[place * len(known) :][: len(known)] for place, words in enumerate(DIFFERENCES)}
