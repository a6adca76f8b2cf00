"""What an engine is: it trains cohorts somewhere and hands back their events."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from benchmark.errors import UserError
from benchmark.registry import Registry
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent


class Engine(Protocol):
    """Trains cohorts and hands back their events, each cohort's in the order they happen.

    An engine is made with the number of cohorts that may train side by side, and a function that it asks from time to
    time whether to stop. Then every cohort saves and stops, and none that waits is started. A cohort's last event is
    `CohortEnded` or `CohortCrashed`.
    """

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort."""
        ...

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until nothing runs and nothing waits; more may be submitted meanwhile."""
        ...

    def drop(self, job: CohortJob, signature: str) -> None:
        """End one lane of a cohort that runs: it leaves after a step or two, and `LaneDropped` reports it.

        It is too late for a lane that has made its last step, which finishes, and too early for a cohort that waits.
        """
        ...

    def close(self) -> None:
        """Release the engine's processes and connections."""
        ...


#: makes an engine: (cohorts side by side, whether to stop) -> engine
EngineFactory = Callable[[int, Callable[[], bool]], Engine]

registry: Registry[EngineFactory] = Registry("engine", listed_by="python -m benchmark.run --help")


def train_and_report(
    job: CohortJob,
    report: Callable[[EngineEvent], None],
    stop: Callable[[], bool],
    unwanted: Collection[str] = (),
) -> None:
    """Train a cohort where this is called; whatever happens, its last event says how it ended."""
    from benchmark.train.loop import train_cohort  # an engine is made in processes that never train

    try:
        train_cohort(job, report, stop, unwanted=unwanted)
        report(CohortEnded())
    except UserError as error:
        report(CohortCrashed(str(error), is_user_error=True))
    except Exception:
        report(CohortCrashed(traceback.format_exc(limit=-3).strip(), is_user_error=False))
