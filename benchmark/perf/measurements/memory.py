"""The peak memory of training."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark import machine
from benchmark.perf.apart import worker
from benchmark.perf.base import Setting, SideBySide, counted, measurement
from benchmark.perf.workload import PAIRS, Cohort, Pair, References, cohort_configs, run_config

MIB = 2**20
STEPS = 2


@measurement("Peak memory", quick_s=14, full_s=30)
def memory(setting: Setting) -> Iterator[SideBySide]:
    """Peak over two iterations in a fresh process: resident memory beyond what the process had after its imports on
    a CPU, memory allocated by PyTorch on a GPU. The reference trains one student; ours 1, 4 and 8 on one teacher."""
    pair = PAIRS[0]
    reference = in_fresh_process(setting, pair, 0)
    for students in setting.choose((4,), (1, 4, 8)):
        ours = in_fresh_process(setting, pair, students)
        label = "1 student" if students == 1 else f"{students} students (reference: 1)"
        yield counted(f"{pair}, {label}", "MiB", reference, ours)


def in_fresh_process(setting: Setting, pair: Pair, students: int) -> float:
    """Measure the peak in MiB of training this many students in our loop; 0 is the reference with its one student."""
    # ours as in every process that trains
    with worker(keep_memory=students > 0 and setting.device.type == "cpu") as fresh:
        return fresh.submit(_peak, setting, pair, students).result()


def _peak(setting: Setting, pair: Pair, students: int) -> float:
    machine.set_numerics(setting.device, setting.threads)
    before = resident_peak()
    loop: References | Cohort
    if students == 0:
        loop = References(setting, [run_config(pair)])
    else:
        loop = Cohort(setting, [run_config(pair)] if students == 1 else cohort_configs(pair, students))
    for _ in range(STEPS):
        loop.step()
    if setting.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setting.device) / MIB
    return (resident_peak() - before) / MIB


def resident_peak() -> int:
    """Peak memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that this one was forked from
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
