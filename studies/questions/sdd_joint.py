"""Which base loss, scales and beta are best together?

Space, conditional: `base` kd, dkd or nkd; `sdd.scales` {1}, {1,2}, {1,4} or {1,2,4}; `sdd.beta` from 0.5 to 16 on a
logarithmic scale, where the scales are not {1}, which leaves one region and is the base method. TPE.
Base loss: one of the space, with the hyperparameters that SDD's released code gives it.
Budget: 40 trials of one seed, 4 at once.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: one at a time only: beta 2 at {1,2,4} with KD, {1,2} or {1,2,4} at beta 2 with KD (Wei, Luo, Luo, CVPR 2024,
Tables 7 and 8); SD-DKD is the best of the three in Tables 1 and 2.
Figure: accuracy over beta, a panel per scale set and a mark per base loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optuna.trial import BaseTrial

from benchmark.analysis.methods import title_of
from studies import figures
from studies.base import Choice, PublishedLine, Study, register
from studies.questions.sdd_beta import HIGHEST, LOWEST
from studies.questions.sdd_scales import as_scales, as_set

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BASES = ("kd", "dkd", "nkd")
SCALES = ("1", "1,2", "1,4", "1,2,4")


@register
class SDDJoint(Study):
    """Base loss, scales and beta together."""

    name = "sdd_joint"
    question = "Which base loss, scales and weight of complementary regions are best together?"
    published = (
        "asked one at a time only: {1,2} or {1,2,4}, beta 2, with KD; SD-DKD is mostly the best of the three"
        " (Wei, Luo, Luo, CVPR 2024, Tables 1, 2, 7 and 8)"
    )
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    sampler = "tpe"
    trials = 40

    def suggest(self, trial: BaseTrial) -> Choice:
        base = trial.suggest_categorical("base", BASES)
        scales = as_scales(trial.suggest_categorical("sdd.scales", SCALES))
        if scales == (1,):
            return Choice(f"sdd_{base}", {"sdd.scales": scales})
        beta = round(trial.suggest_float("sdd.beta", LOWEST, HIGHEST, log=True), 3)
        return Choice(f"sdd_{base}", {"sdd.scales": scales, "sdd.beta": beta})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_dkd", {}), Choice("dkd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.by_panel(
            frame,
            "sdd.beta",
            xlabel="sdd.beta",
            panel="sdd.scales",
            order=SCALES,
            by="base",
            by_order=BASES,
            named_panel=lambda scales: f"scales {as_set(scales)}",
            named_by=title_of,
            title=title,
        )
