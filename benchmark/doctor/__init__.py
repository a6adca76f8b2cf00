"""Say what is wrong on this machine and in a runs folder, and mend what is safe: `python -m benchmark doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.doctor import environment, leftovers, stored
from benchmark.doctor.base import Check, Finding, Places
from benchmark.errors import UserError

__all__ = ["CHECKS", "Finding", "Places", "examine"]

#: by the heading that their findings have, in the order of the output
CHECKS: dict[str, Check] = {
    "python": environment.python,
    "packages": environment.packages,
    "devices": environment.devices,
    "data sets": environment.data_sets,
    "runs folder": stored.folder,
    "tracking": stored.tracking_store,
    "teachers": stored.teachers,
    "image caches": stored.image_caches,
    "view caches": stored.view_caches,
    "locks": leftovers.locks,
    "killed runs": leftovers.killed_runs,
    "work": leftovers.work,
    "partial files": leftovers.partial_files,
    "logs": leftovers.logs_kept,
}


def examine(places: Places) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of every check with its heading; a check that cannot be made is a finding as well."""
    for name, check in CHECKS.items():
        try:
            for finding in check(places):
                yield name, finding
        except (UserError, OSError) as error:
            yield name, Finding("wrong", str(error))
