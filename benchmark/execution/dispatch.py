"""Give cohorts to the engine: at once, or under a deadline in the order of their worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmark import plugins
from benchmark.execution.deadline import Deadline
from benchmark.execution.delivery import Delivery
from benchmark.execution.engines import Engine
from benchmark.execution.estimate import Costs
from benchmark.execution.options import Options
from benchmark.execution.order import priority_of
from benchmark.execution.survey import Entry, Survey
from benchmark.train.messages import CohortJob, LaneJob


class Dispatch:
    """Cohorts on their way to the engine, each with a name of its own."""

    def __init__(
        self, engine: Engine, survey: Survey, costs: Costs, delivery: Delivery, deadline: Deadline | None
    ) -> None:
        self._engine, self._survey, self._options = engine, survey, survey.options
        self._costs, self._delivery, self._deadline = costs, delivery, deadline
        #: under a deadline: cohorts that wait for a worker, in no order, and the number of those that have one
        self._waiting: list[Sequence[Entry]] = []
        self._num_submitted = 0
        #: the cohort of every run that was submitted
        self.jobs: dict[str, CohortJob] = {}
        self._names: Counter[str] = Counter()

    @property
    def has_waiting(self) -> bool:
        """Whether a cohort waits for a worker, or for time that will not come."""
        return bool(self._waiting)

    def put(self, group: Sequence[Entry]) -> None:
        """Submit a cohort; under a deadline `start` does."""
        if self._deadline is None:
            self._engine.submit(self._job(group))
        else:
            self._waiting.append(group)

    def start(self) -> None:
        """Under a deadline: give the free workers the cohorts that are most worth it, while there is time for them."""
        if self._deadline is None:
            return
        entries, pairs = self._survey.entries, self._survey.plan.pairs
        self._waiting.sort(key=lambda group: min(priority_of(one, entries, pairs) for one in group))
        while self._waiting and self._num_submitted < self._options.workers:
            step_s = self._costs.step_s([entry.config for entry in self._waiting[0]])
            if not self._deadline.can_start(step_s, self._delivery.num_waiting):
                return
            job = self._job(self._waiting.pop(0))
            self._num_submitted += 1
            self._deadline.submitted(job, step_s)
            self._engine.submit(job)

    def drop(self, entry: Entry) -> bool:
        """Drop a run that another process has taken over; False when it was not submitted yet, and is not any more."""
        for number, group in enumerate(self._waiting):
            if entry in group:
                left = [one for one in group if one is not entry]
                self._waiting[number : number + 1] = [left] if left else []
                return False
        assert entry.signature is not None
        self._engine.drop(self.jobs[entry.signature], entry.signature)
        return True

    def ended(self) -> None:
        """Hear that a cohort has left its worker."""
        self._num_submitted -= 1

    def _job(self, group: Sequence[Entry]) -> CohortJob:
        teacher = next((e.config.teacher for e in group if e.config.teacher is not None), None)
        job = CohortJob(
            name=self._name(group),
            lanes=tuple(_lane(entry, self._options) for entry in group),
            teacher=None if teacher is None else self._survey.teachers[teacher],
            data_root=self._options.data_root,
            cache=self._options.cache,
            cache_gb=self._options.cache_gb,
            device=self._options.device,
            threads=self._options.threads,
            data_digest=self._survey.data.digest,
            plugins=plugins.loaded(),
        )
        self.jobs |= {lane.signature: job for lane in job.lanes}
        return job

    def _name(self, group: Sequence[Entry]) -> str:
        if group[0].role == "teacher":
            return group[0].label
        name = _students(group)
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}, part {self._names[name]}"


def _lane(entry: Entry, options: Options) -> LaneJob:
    assert entry.signature is not None
    folder = options.work(entry.signature)
    return LaneJob(entry.signature, entry.config, folder / "checkpoint", folder / "student.safetensors")


def _students(group: Sequence[Entry]) -> str:
    """Name students by their pair, or their teacher, and their seed."""
    pairs = sorted({entry.pair_name for entry in group if entry.config.teacher is not None})
    alone = sorted({entry.pair_name for entry in group})
    if len(pairs or alone) == 1:
        name = (pairs or alone)[0]
    else:
        name = f"{pairs[0].partition(' -> ')[0]} -> {len(pairs)} networks" if pairs else f"{len(alone)} alone"
    return f"{name}, seed {group[0].config.repetition}"
