"""The engine interface: an engine trains cohorts somewhere and reports their events."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from benchmark import plugins
from benchmark.errors import LostRank, UserError
from benchmark.registry import Registry
from benchmark.train.messages import CohortCrashed, CohortEnded, CohortJob, EngineEvent

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A place where cohorts train; it reports their events, each cohort's in the order they happen.

    An engine is made with the number of cohorts that may train in parallel, and a function that it calls from time to
    time to ask whether to stop. If so, every cohort saves and stops, and no waiting cohort is started. A cohort's last
    event is `CohortEnded` or `CohortCrashed`.
    """

    def submit(self, job: CohortJob) -> None:
        """Queue a cohort."""
        ...

    def events(self) -> Iterator[tuple[CohortJob, EngineEvent]]:
        """Yield (cohort, event) until no cohort runs or waits; more may be submitted meanwhile."""
        ...

    def drop(self, job: CohortJob, signature: str) -> None:
        """Drop one lane of a running cohort: it leaves after a step or two, and `LaneDropped` reports it.

        A lane that has taken its last step finishes all the same, and a cohort that still waits is not affected.
        """
        ...

    def close(self) -> None:
        """Release the engine's processes and connections."""
        ...


#: makes an engine: (cohorts in parallel, whether to stop) -> engine; what else it takes is a field of `Options`
EngineFactory = Callable[..., Engine]

registry: Registry[EngineFactory] = Registry("engine", listed_by="python -m benchmark.run --help")


def train_and_report(
    job: CohortJob,
    report: Callable[[EngineEvent], None],
    stop: Callable[[], bool],
    unwanted: Collection[str] = (),
) -> None:
    """Train a cohort in the calling thread; its last event always tells how it ended."""
    try:
        plugins.add(job.plugins)
        _train(job, report, stop, unwanted)
        report(CohortEnded())
    except UserError as error:
        report(CohortCrashed(str(error), is_user_error=True))
    except ConnectionError:  # the command is gone
        raise
    except OSError as error:  # a disk that is full, a folder that cannot be written
        log.exception(f"cohort {job.name} crashed")
        report(CohortCrashed(f"a file could not be read or written: {error}", is_user_error=True))
    except LostRank as error:
        log.exception(f"cohort {job.name} crashed")
        report(CohortCrashed(str(error), is_user_error=False))
    except Exception:
        log.exception(f"cohort {job.name} crashed")
        report(CohortCrashed(traceback.format_exc(limit=-3).strip(), is_user_error=False))


def _train(
    job: CohortJob, report: Callable[[EngineEvent], None], stop: Callable[[], bool], unwanted: Collection[str]
) -> None:
    # imported here: engines are made in processes that never train
    if job.ranks > 1:
        from benchmark.execution.parallel import train_in_ranks

        train_in_ranks(job, report, stop, unwanted)
    else:
        from benchmark.train.loop import train_cohort

        train_cohort(job, report, stop, unwanted=unwanted)
