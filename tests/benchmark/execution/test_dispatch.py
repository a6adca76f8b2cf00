"""Cohorts on their way to the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

from benchmark.datasets.base import DataSet
from benchmark.execution.deadline import Deadline
from benchmark.execution.dispatch import Dispatch
from benchmark.execution.options import Options
from benchmark.execution.survey import Survey
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.train.messages import CohortJob
from tests.benchmark.execution.test_execute import SMALL


class Engine:
    """What was submitted to it, and dropped."""

    def __init__(self) -> None:
        self.submitted: list[CohortJob] = []
        self.dropped: list[str] = []

    def submit(self, job: CohortJob) -> None:
        self.submitted.append(job)

    def drop(self, job: CohortJob, signature: str) -> None:
        assert job in self.submitted
        self.dropped.append(signature)


def test_a_run_is_dropped_where_its_cohort_trains_and_where_it_waits(tmp_path: Path, digits: DataSet) -> None:
    """Another machine may take over a lease in both."""
    methods: dict[str, Any] = {"vanilla": {}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "seeds": 3, "methods": methods}))
    plan = make_plan(suite.load(str(tmp_path / "small.yaml")))
    survey = Survey(plan, Options(tmp_path / "runs", tmp_path), digits, None)
    survey.look()
    first, second, third = survey.entries
    engine, deadline = Engine(), Deadline(1e9)
    dispatch = Dispatch(cast(Any, engine), survey, cast(Any, None), cast(Any, None), deadline)
    dispatch.put([first, second])
    dispatch.put([third])
    assert not dispatch.drop(second)
    assert not dispatch.drop(third)
    assert dispatch.has_waiting
    assert not dispatch.drop(first)
    assert not dispatch.has_waiting
    started = Dispatch(cast(Any, engine), survey, cast(Any, None), cast(Any, None), None)
    started.put([first, second])
    assert started.drop(second)
    assert engine.dropped == [second.signature]
