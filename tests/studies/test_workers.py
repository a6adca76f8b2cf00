"""Workers of a study end with the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import time

import pytest

from studies import workers
from tests.processes import exit_code, start


def work_until_stdin_ends(source: int, ours: int) -> None:
    """Stand in for a worker, which trains until it is told to stop."""
    os.close(ours)  # the copy of the other end, which would keep it open
    os.dup2(source, 0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
    workers.end_with_stdin()
    time.sleep(60)


@pytest.mark.processes
def test_a_worker_stops_once_the_process_that_started_it_is_gone() -> None:
    source, ours = os.pipe()
    process = start(work_until_stdin_ends, source, ours)
    time.sleep(0.3)
    assert process.is_alive()
    os.close(ours)
    assert exit_code(process) == 130
    os.close(source)
