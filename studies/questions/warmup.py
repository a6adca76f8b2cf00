"""Does distillation need a warm-up?

Space: `warmup_epochs` 0, 1, 20, 30 for each of `sdd_kd` and `sdd_dkd`: the distillation term is scaled by
min(epoch / warm-up, 1). 20 and 30 are the released code's and the paper's, 1/12 and 1/8 of 240 epochs; 1 is the
released code's on ImageNet and 1/6 of the 6 epochs of `digits`, where 20 and 30 outlast the training and show the
cost of a distillation that never reaches its weight.
Base losses: KD and DKD, whose term is the largest at the start (beta 8).
Budget: 8 trials of 3 seeds, 4 at once.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: no ablation. The paper warms up over 30 epochs, whatever the base loss (Wei, Luo, Luo, CVPR 2024); its
released code over none for SD-KD and over 20 for SD-DKD.
Figure: accuracy by warm-up with error bars over the seeds, a mark for SD-KD and one for SD-DKD.
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

METHODS = ("sdd_kd", "sdd_dkd")
EPOCHS = (0, 1, 20, 30)


@register
class Warmup(Study):
    """Epochs over which the distillation term rises to its weight."""

    name = "warmup"
    question = "Over how many epochs should the distillation term rise to its weight?"
    published = (
        "no ablation: 30 epochs of 240 in the paper, none for SD-KD and 20 for SD-DKD in its code"
        " (Wei, Luo, Luo, CVPR 2024)"
    )
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        method = trial.suggest_categorical("method", METHODS)
        epochs = trial.suggest_categorical("warmup_epochs", EPOCHS)
        return Choice(method, {f"{method.removeprefix('sdd_')}.warmup_epochs": epochs})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"method": METHODS, "warmup_epochs": EPOCHS})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_dkd", {}), Choice("dkd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.bars(
            frame,
            "warmup_epochs",
            order=EPOCHS,
            ylabel="warm-up of distillation (epochs)",
            by="method",
            by_order=METHODS,
            named_by=title_of,
            title=title,
            lines=lines,
        )
