"""Saved views of an experiment in MLflow's UI: which runs, columns and charts its page opens with.

MLflow keeps a view as a tag of the experiment, `mlflow.sharedViewState.<key>`, and lists it in the page's menu of
views; an address that names the key opens it. The fields are those of MLflow 3.17's own page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

TAG = "mlflow.sharedViewState."
#: tag of a run: its method and, where `--set` changed them, its settings; runs of one pair that share it are seeds
VARIANT = "variant"
#: what the names of experiments that hold studies begin with
STUDIES = "studies "
#: runs, or groups of runs, that a chart shows at once
_NUM_SHOWN = 20


@dataclass(frozen=True)
class SavedView:
    """One view: a filter of runs, their order and columns, and its charts if it has any."""

    key: str
    name: str
    #: in MLflow's language
    query: str
    #: metric that the runs are sorted by, the highest first
    metric: str
    #: e.g. "metrics.`final/last`"
    columns: tuple[str, ...]
    #: what makes the groups that charts show the means of, as (`tag` or `param`, name)
    group_by: tuple[tuple[str, str], ...] = ()
    #: metrics drawn as bars, and as lines over the epochs
    bars: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    #: sections of MLflow's own charts, folded below ours
    folded: tuple[str, ...] = ("final", "test", "val", "train", "time")

    @property
    def order_by(self) -> str:
        """The order as MLflow's address and view name it."""
        return column("metrics", self.metric)

    def tag(self, when_ms: int) -> tuple[str, str]:
        """Name and value of the experiment's tag that holds the view."""
        state: dict[str, Any] = {
            "searchFilter": self.query,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "selectedColumns": self.columns,
            "runsHiddenMode": f"FIRST_{_NUM_SHOWN}_RUNS",
        }
        if self.lines or self.bars:
            state |= {
                "groupBy": _group_by(self.group_by),
                "isAccordionReordered": True,
                "compareRunSections": [
                    _section("means", "Means over seeds", is_open=True),
                    *(_section(name, name, is_open=False) for name in self.folded),
                ],
                "compareRunCharts": [
                    *(_chart(metric, "BAR") for metric in self.bars),
                    *(_chart(metric, "LINE") for metric in self.lines),
                ],
            }
        envelope = {"name": self.name, "createdAt": when_ms, "updatedAt": when_ms, "state": json.dumps(state)}
        return f"{TAG}{self.key}", json.dumps(envelope)

    def address(self, page: str, is_saved: bool) -> str:
        """Address that opens the view on an experiment's page of runs; where it is not saved, its filter and order."""
        mode = "&compareRunsMode=CHART" if self.lines or self.bars else ""
        if is_saved:
            return f"{page}&viewStateShareKey={self.key}{mode}"
        return f"{page}&searchFilter={quote(self.query)}&orderByKey={quote(self.order_by)}&orderByAsc=false{mode}"


def column(kind: str, name: str) -> str:
    """Name of a column as MLflow writes it, for a kind such as `metrics`, `params` or `tags`."""
    return f"{kind}.`{name}`"


def _group_by(keys_of_groups: Sequence[tuple[str, str]]) -> dict[str, Any]:
    keys = [{"mode": mode, "groupByData": name} for mode, name in keys_of_groups]
    return {"aggregateFunction": "average", "groupByKeys": keys}


def _section(key: str, name: str, is_open: bool) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": name,
        "display": is_open,
        "columns": 2,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(metric: str, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "uuid": f"{kind} {metric}",
        "type": kind,
        "metricSectionId": "means",
        "metricKey": metric,
        "runsCountToCompare": _NUM_SHOWN,
        "deleted": False,
        "isGenerated": False,
    }
    if kind == "LINE":
        made |= {
            "selectedMetricKeys": [metric],
            "xAxisKey": "step",
            "yAxisKey": "metric",
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "range": {},
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
    return made


_RUN = tuple(column("params", name) for name in ("method", "student", "teacher", "repetition"))
_REACHED = ("final/last", "final/best_selected_on_test", "test/top5", "test/agreement")
_ARE_STUDENTS = "tags.role = 'student'"

#: the list that every address of a suite opens
STUDENTS = SavedView(
    key="students",
    name="Students by accuracy",
    query=_ARE_STUDENTS,
    metric="final/last",
    columns=(*(column("metrics", name) for name in _REACHED), *_RUN),
)
#: the list that every address of studies opens
TRIALS = SavedView(
    key="trials",
    name="Trials by validation accuracy",
    query=_ARE_STUDENTS,
    metric="final/val",
    columns=(
        *(column("metrics", name) for name in ("final/val", "final/last")),
        *(column("tags", name) for name in ("study", "trial", "confirms")),
        *_RUN,
    ),
)


def charts(num_pairs: int, by: tuple[str, str] = ("tag", VARIANT)) -> SavedView:
    """Charts of a suite's students: means over seeds by variant of a method, and by pair where there are several."""
    pair = (("param", "student"), ("param", "teacher")) if num_pairs > 1 else ()
    return SavedView(
        key="charts",
        name="Charts: means over seeds",
        query=_ARE_STUDENTS,
        metric="final/last",
        columns=STUDENTS.columns,
        group_by=(by, *pair),
        bars=("final/last",),
        lines=("test/top1", "test/agreement", "train/loss_kd"),
    )


def pairs(methods: Sequence[str]) -> SavedView:
    """Pairs with the mean of every method, as `execution/pair_means.py` logs them."""
    return SavedView(
        key="pairs",
        name="Pairs: means over seeds",
        query="tags.role = 'pair'",
        metric=f"mean/{methods[-1]}",
        columns=tuple(column("metrics", f"{figure}/{name}") for figure in ("mean", "std", "n") for name in methods),
    )


def of_suite(methods: Sequence[str], num_pairs: int) -> list[SavedView]:
    """Views of a suite's experiment: its students, their charts, and its pairs."""
    return [STUDENTS, charts(num_pairs), pairs(methods)]


def of_old_suite(num_pairs: int) -> list[SavedView]:
    """Views of an experiment whose runs have no variants yet."""
    return [STUDENTS, charts(num_pairs, by=("param", "method"))]
