"""Is it the complementary knowledge, or just more loss?

Space: `control`, one of eleven. SD-KD's loss is not divided by the sum of the weights: a larger beta is a larger loss
too. If the complementary regions matter, SD-KD at beta 2 and 4 beats
- the scales alone, beta 1: regions, none singled out;
- `mean` weights at beta 2 and 4: every region weighs the batch's mean weight, as much loss on all regions alike;
- `shuffled` weights at beta 2 and 4: the same weights of each sample, on the wrong regions;
- KD with its weight multiplied, no regions at all, by 1.5 (the mean region weight at beta 2 when half of the regions
  are complementary), 2 and 4 (its upper bounds at beta 2 and 4).
Base loss: KD at weight 0.9. Scales are the suite's.
Budget: 11 trials of 3 seeds, 4 at once.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: not asked with SDD. LSKD's ablation multiplies KD's weight by 3.3 and gains 0.78 points without any region
(73.60 to 74.38 at temperature 2, resnet32x4:resnet8x4; Sun et al., CVPR 2024).
Figure: accuracy by control with error bars over the seeds; KD's as a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from studies import figures
from studies.base import Choice, PublishedLine, Study, every, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CONTROLS: Mapping[str, Choice] = {
    "KD": Choice("kd", {}),
    # 0.9, its weight in every published table, times 1.5, 2 and 4
    "KD, weight x 1.5": Choice("kd", {"kd.weight": 1.35}),
    "KD, weight x 2": Choice("kd", {"kd.weight": 1.8}),
    "KD, weight x 4": Choice("kd", {"kd.weight": 3.6}),
    "scales alone, beta 1": Choice("sdd_kd", {"sdd.beta": 1.0}),
    "SD-KD, beta 2": Choice("sdd_kd", {"sdd.beta": 2.0}),
    "SD-KD, beta 4": Choice("sdd_kd", {"sdd.beta": 4.0}),
    "mean weights, beta 2": Choice("sdd_kd", {"sdd.beta": 2.0, "sdd.weights": "mean"}),
    "mean weights, beta 4": Choice("sdd_kd", {"sdd.beta": 4.0, "sdd.weights": "mean"}),
    "shuffled weights, beta 2": Choice("sdd_kd", {"sdd.beta": 2.0, "sdd.weights": "shuffled"}),
    "shuffled weights, beta 4": Choice("sdd_kd", {"sdd.beta": 4.0, "sdd.weights": "shuffled"}),
}


@register
class SDDControls(Study):
    """SD-KD against losses as large without complementary knowledge."""

    name = "sdd_controls"
    question = "Is SD-KD's gain due to complementary regions, or to a larger loss?"
    published = (
        "not asked with SDD; LSKD multiplies KD's weight by 3.3 and gains 0.78 points without any region"
        " (Sun et al., CVPR 2024, its ablation)"
    )
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        return CONTROLS[trial.suggest_categorical("control", tuple(CONTROLS))]

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"control": tuple(CONTROLS)})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.bars(
            frame,
            "control",
            order=tuple(CONTROLS),
            ylabel="",
            reference="KD",
            title=title,
            lines=lines,
        )
