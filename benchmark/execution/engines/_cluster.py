"""The Ray cluster that cohorts train on: one that is joined, or one that is started here and ended again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

from benchmark import machine, process
from benchmark.errors import UserError
from benchmark.train.messages import CohortJob

#: memory of a Ray that is started here for what travels; beyond it Ray uses the disk
_OBJECT_STORE_BYTES = 200_000_000
#: variable by which Ray is told whether to report its use over the network
_REPORTS_USE = "RAY_USAGE_STATS_ENABLED"


class Cluster:
    """A connection to Ray, made for the first cohort."""

    def __init__(self, num_workers: int, address: str | None) -> None:
        """Import Ray; without an address, a Ray is started here that has room for `num_workers`.

        Raises:
            UserError: when Ray is not installed.
        """
        self.num_workers, self.address = num_workers, address
        self.ray = _imported()
        self._is_ours = False

    def connect(self, job: CohortJob) -> None:
        """Start or join Ray, unless this process has; see whether one of its machines is large enough for the cohort.

        Raises:
            UserError: when there is no cluster, none of whose machines can train the cohort included.
        """
        demand = demand_of(job)
        if not self.ray.is_initialized():
            self._is_ours = True
            own = {} if self.address else self._own(demand)
            with _quiet(), _signals_kept():
                try:
                    self.ray.init(self.address or "local", log_to_driver=False, configure_logging=False, **own)
                except Exception as error:  # of many kinds
                    where = f"joined at {self.address}" if self.address else "started"
                    reason = " ".join(str(error).split())
                    raise UserError(
                        f"--engine ray: Ray could not be {where}: {reason} (--engine local needs no Ray)"
                    ) from error
        hosts = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(host.get(kind, 0) >= amount for kind, amount in demand.items()) for host in hosts):
            wanted = " and ".join(f"{amount} {kind}" for kind, amount in demand.items())
            raise UserError(
                f"--engine ray: none of the cluster's {len(hosts)} machines has {wanted}; choose fewer with --gpus or"
                " --threads, or another --ray-address"
            )

    def close(self) -> None:
        """Leave the cluster; end the Ray that was started here."""
        if self._is_ours:
            self.ray.shutdown()
            self._is_ours = False

    def _own(self, demand: dict[str, int]) -> dict[str, Any]:
        """What a Ray that is started here is told: it has room for as many workers as were asked for."""
        return {
            "num_cpus": max(process.available_cores(), self.num_workers * demand.get("CPU", 1)),
            "num_gpus": machine.num_gpus() if "GPU" in demand else 0,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }


def demand_of(job: CohortJob) -> dict[str, int]:
    """What the worker of a cohort needs, in Ray's words."""
    return {"GPU": job.ranks} if job.device == "cuda" else {"CPU": job.threads * job.ranks}


def _imported() -> Any:
    os.environ.setdefault(_REPORTS_USE, "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--engine ray needs the package ray, which is not installed: `make install`, or `pip install"
            " 'sdd-benchmark[cluster]'`"
        ) from error
    return ray


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's remarks on its start off the terminal."""
    log = logging.getLogger("ray")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the command's handling of signals, which Ray replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
