"""How much should complementary regions weigh?

Space: `sdd_beta` is the published grid, `sdd.beta` 1, 2, 4, 6, 8; `sdd_beta_continuous` draws it from 0.5 to 16 on a
logarithmic scale (TPE).
Base loss: KD (`sdd_kd`). Scales, temperature and weights are the suite's.
Budget: the grid is 5 trials of 3 seeds, all at once; TPE is 20 trials of one seed, 4 at once, since neighbouring points
inform about each other as repeats do.
Pairs: resnet32x4:shufflenet_v1, Table 8's; resnet32x4:resnet8x4.
Published: 75.62, 76.30, 75.99, 76.15, 75.78 at 1, 2, 4, 6, 8; number of runs not stated (Wei, Luo, Luo, CVPR 2024,
Table 8). Runs that the authors repeated differ by 0.31 points (standard deviation): most of this spread of 0.68 may be
chance.
Figure: accuracy over beta with error bars over the seeds; Table 8 next to it.

A larger beta is also a larger loss: `sdd_controls` asks which of the two it is.
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

BETAS = (1.0, 2.0, 4.0, 6.0, 8.0)
LOWEST, HIGHEST = 0.5, 16.0
PUBLISHED = (
    "2: 76.30 against 75.62, 75.99, 76.15 and 75.78 at 1, 4, 6 and 8, number of runs not stated"
    " (Wei, Luo, Luo, CVPR 2024, Table 8)"
)
XLABEL = "weight of complementary regions, sdd.beta"


@register
class SDDBeta(Study):
    """The weight of complementary regions, over the published grid."""

    name = "sdd_beta"
    question = "How much should complementary regions weigh in SD-KD?"
    published = PUBLISHED
    tables = ("sdd/table8",)
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    at_once = len(BETAS)
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        return Choice("sdd_kd", {"sdd.beta": trial.suggest_categorical("sdd.beta", BETAS)})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"sdd.beta": BETAS})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.line_with_errors(frame, "sdd.beta", xlabel=XLABEL, title=title, lines=lines)


@register
class SDDBetaContinuous(Study):
    """The weight of complementary regions, from half that of consistent ones to 16 times it."""

    name = "sdd_beta_continuous"
    question = "How much should complementary regions weigh in SD-KD, if any weight may be taken?"
    published = PUBLISHED
    tables = ("sdd/table8",)
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    sampler = "tpe"
    trials = 20

    def suggest(self, trial: BaseTrial) -> Choice:
        # three decimals: as fine as any accuracy could tell, and a name that can be read
        return Choice("sdd_kd", {"sdd.beta": round(trial.suggest_float("sdd.beta", LOWEST, HIGHEST, log=True), 3)})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.line_with_errors(
            frame,
            "sdd.beta",
            xlabel=XLABEL,
            log=True,
            connected=False,
            title=title,
            lines=lines,
        )
