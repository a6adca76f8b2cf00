"""How soft should the teacher's predictions be, on the whole image and on regions?

Space: `kd.temperature` 1, 2, 3, 4, 6, 8 for each of `kd` and `sdd_kd`: a region's logits average over fewer pixels than
the image's and spread more, so that the best temperature need not be the same.
Base loss: KD at the suite's weights (0.1 and 0.9); the loss is multiplied by T squared, as everywhere.
Budget: 12 trials of 3 seeds, 6 at once.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: 4 in every CIFAR-100 table of the field, without an ablation in SDD's paper (Wei, Luo, Luo, CVPR 2024); its
ImageNet KD ran at 1, its ImageNet SD-KD at 4.
Figure: accuracy over the temperature with error bars over the seeds, a line for KD and one for SD-KD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from benchmark.analysis.methods import title_of
from studies import figures
from studies.base import Choice, PublishedLine, Study, every, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = ("kd", "sdd_kd")
TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


@register
class KDTemperature(Study):
    """KD's temperature, with and without scale decoupling."""

    name = "kd_temperature"
    question = "Which temperature suits KD, and does SD-KD want another?"
    published = "4 in every CIFAR-100 table, without an ablation (Wei, Luo, Luo, CVPR 2024; Zhao et al., CVPR 2022)"
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    at_once = 6
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        method = trial.suggest_categorical("method", METHODS)
        return Choice(method, {"kd.temperature": trial.suggest_categorical("kd.temperature", TEMPERATURES)})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"method": METHODS, "kd.temperature": TEMPERATURES})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.line_with_errors(
            frame,
            "kd.temperature",
            xlabel="temperature, kd.temperature",
            by="method",
            by_order=METHODS,
            named_by=title_of,
            title=title,
            lines=lines,
        )
