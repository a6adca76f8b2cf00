"""Operators and host reads of an iteration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import distillers
from benchmark.perf.base import Setting, SideBySide, counted, measurement
from benchmark.perf.counting import count
from benchmark.perf.workload import PAIRS, Cohort, References, run_config


@measurement("Operators and host reads of an iteration", quick_s=4, full_s=6)
def counts(setting: Setting) -> Iterator[SideBySide]:
    """PyTorch operators dispatched in one iteration of one student, teacher included, and how often the host has to
    wait for a value of the device (items, masks turned into positions, copies to the host)."""
    small = replace(setting, batch_size=min(4, setting.batch_size))  # the counts do not depend on it
    pair = PAIRS[0]
    for method in ("sdd_kd", "sdd_dkd", "sdd_nkd"):
        config = run_config(pair, method)
        reference, ours = References(small, [config]), Cohort(small, [config])
        for loop in (reference, ours):
            loop.step()  # the first one makes momentum buffers and pooling matrices
        theirs, own = count(reference.step), count(ours.step)
        title = distillers.registry.get(method).title
        yield counted(f"{pair}, {title}, operators", "operators", theirs.operators, own.operators)
        yield counted(f"{pair}, {title}, host reads", "host reads", theirs.host_reads.total(), own.host_reads.total())
