"""What a process may take of its machine."""

from __future__ import annotations

import resource
from multiprocessing.connection import Connection

import pytest

from benchmark import machine
from tests.processes import exit_code, heard, pipe, start


def open_many(said: Connection) -> None:
    """Say the soft limits before and after asking for more files, under limits of 100 and 3,000."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 3000))
    limits = []
    for count in (0, 2000, 10, 10_000):
        machine.allow_open_files(count)
        limits.append(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    said.send(limits)


@pytest.mark.processes
def test_as_many_files_are_allowed_as_runs_are_locked() -> None:
    ours, theirs = pipe()
    process = start(open_many, theirs)
    assert heard(ours) == [512, 2512, 2512, 3000]
    assert exit_code(process) == 0
