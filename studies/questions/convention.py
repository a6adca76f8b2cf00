"""Does it matter that SDD's paper and its released code differ?

Space: `convention` code or paper for each of `sdd_kd` and `sdd_dkd`: which regions are complementary, sum or mean over
them, the whole image's prediction, how coarse grids are pooled, warm-up (none or 20 epochs against 30) and gradient
clipping. The paper's sum over 21 regions is a loss 21 times as large, without clipping: a trial may diverge and fail,
which is an answer too.
Base losses: KD and DKD. What a suite sets is above the convention: `digits` sets DKD's warm-up of 1 epoch itself, while
SD-KD's 30 epochs of the paper outlast its training; the study is meant for suites of 240 epochs.
Budget: 4 trials of 3 seeds, all at once.
Pairs: resnet32x4:shufflenet_v1 and resnet32x4:resnet8x4.
Published: not asked. The tables were made with the code (Wei, Luo, Luo, CVPR 2024, and its repository).
Figure: accuracy by convention with error bars over the seeds, a mark for SD-KD and one for SD-DKD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from optuna.trial import BaseTrial

from benchmark.analysis.methods import title_of
from distillers.base import Convention
from studies import figures
from studies.base import Choice, PublishedLine, Study, every, register

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = ("sdd_kd", "sdd_dkd")
CONVENTIONS: tuple[str, ...] = get_args(Convention)


@register
class CodeOrPaper(Study):
    """SDD as in its released code, and as in its paper."""

    name = "convention"
    question = "Does it matter that SDD's paper and its released code differ?"
    published = "not asked; the tables were made with the released code (Wei, Luo, Luo, CVPR 2024)"
    pairs = ("resnet32x4:shufflenet_v1", "resnet32x4:resnet8x4")
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        method = trial.suggest_categorical("method", METHODS)
        return Choice(method, {"convention": trial.suggest_categorical("convention", CONVENTIONS)})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"method": METHODS, "convention": CONVENTIONS})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_dkd", {}), Choice("dkd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.bars(
            frame,
            "convention",
            order=CONVENTIONS,
            ylabel="convention",
            by="method",
            by_order=METHODS,
            named_by=title_of,
            title=title,
            lines=lines,
        )
