"""Do consistent or complementary regions carry the gain?

Space: `terms` is `none` (KD on the whole image), `consistent` (beta 0), `complementary` (consistent regions weigh 0,
complementary ones 1) or `both` (SD-KD as published, beta 2). The paper does not say what complementary regions weigh
alone; with 1 each kind weighs as it does in a plain sum over the regions.
Base loss: KD. Scales are the suite's.
Budget: 4 trials of 3 seeds, all at once.
Pairs: resnet32x4:resnet8x4 and resnet32x4:shufflenet_v1, Table 6's.
Published: each kind alone gains over KD, both together the most: 73.33, 75.14, 74.79, 76.63 and 74.07, 75.88, 75.10,
76.30; number of runs not stated (Wei, Luo, Luo, CVPR 2024, Table 6).
Figure: accuracy by terms with error bars over the seeds, KD's as a line; Table 6 next to it.
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

#: by the names of the published table
TERMS: Mapping[str, Choice] = {
    "none": Choice("kd", {}),
    "consistent": Choice("sdd_kd", {"sdd.beta": 0.0}),
    "complementary": Choice("sdd_kd", {"sdd.consistent": 0.0, "sdd.beta": 1.0}),
    "both": Choice("sdd_kd", {}),
}


@register
class SDDTerms(Study):
    """Consistent and complementary regions, each alone and both."""

    name = "sdd_terms"
    question = "Do consistent or complementary regions carry the gain of SD-KD?"
    published = (
        "each alone, and more together: KD 74.07, consistent 75.88, complementary 75.10, both 76.30, number of runs not"
        " stated (resnet32x4:shufflenet_v1; Wei, Luo, Luo, CVPR 2024, Table 6)"
    )
    tables = ("sdd/table6",)
    pairs = ("resnet32x4:resnet8x4", "resnet32x4:shufflenet_v1")
    at_once = len(TERMS)
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        return TERMS[trial.suggest_categorical("terms", tuple(TERMS))]

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"terms": tuple(TERMS)})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        def named(terms: str) -> str:
            return "none (KD)" if terms == "none" else terms

        return figures.bars(
            frame,
            "terms",
            order=tuple(TERMS),
            ylabel="regions that count",
            named=named,
            reference="none",
            title=title,
            lines=lines,
        )
