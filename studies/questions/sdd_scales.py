"""Into how many regions should the image be cut?

Space: `sdd.scales` {1}, {1,2}, {1,4}, {1,2,4}, the published grid, and {1,2,4,8}, which is not published: the 8 x 8
grid is always pooled from the map, and on maps of 4 x 4 or 2 x 2 repeats their cells. {1} is plain KD.
Base loss: KD (`sdd_kd`), beta as the suite has it (2).
Budget: 5 trials of 3 seeds, all at once.
Pairs: resnet32x4:resnet8x4 and resnet32x4:shufflenet_v1, Table 7's.
Published: like networks do best with {1,2} (76.63), unlike ones with {1,2,4} (76.30); number of runs not stated (Wei,
Luo, Luo, CVPR 2024, Table 7; the 76.63 is 75.63 in the same paper's appendix).
Figure: accuracy by scale set with error bars over the seeds; Table 7 next to it.
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

#: as text, since a parameter's value must be simple
SCALES = ("1", "1,2", "1,4", "1,2,4", "1,2,4,8")


def as_scales(text: str) -> tuple[int, ...]:
    """Parse `1,2,4` into the hyperparameter's value."""
    return tuple(map(int, text.split(",")))


def as_set(text: str) -> str:
    """Format `1,2,4` for labels: {1, 2, 4}."""
    return "{" + text.replace(",", ", ") + "}"


@register
class SDDScales(Study):
    """The scale sets, published ones and one finer."""

    name = "sdd_scales"
    question = "Into how many regions should SD-KD cut the image?"
    published = (
        "{1,2} between like networks (76.63), {1,2,4} between unlike ones (76.30), number of runs not stated"
        " (Wei, Luo, Luo, CVPR 2024, Table 7)"
    )
    tables = ("sdd/table7",)
    pairs = ("resnet32x4:resnet8x4", "resnet32x4:shufflenet_v1")
    at_once = len(SCALES)
    seeds = 3

    def suggest(self, trial: BaseTrial) -> Choice:
        return Choice("sdd_kd", {"sdd.scales": as_scales(trial.suggest_categorical("sdd.scales", SCALES))})

    def grid(self) -> Sequence[Mapping[str, Any]]:
        return every({"sdd.scales": SCALES})

    def baselines(self) -> Sequence[Choice]:
        return Choice("sdd_kd", {}), Choice("kd", {})

    def draw(self, frame: pd.DataFrame, title: str, lines: Sequence[PublishedLine]) -> Figure:
        return figures.bars(
            frame,
            "sdd.scales",
            order=SCALES,
            ylabel="scales",
            named=as_set,
            title=title,
            lines=lines,
        )
