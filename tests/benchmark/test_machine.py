"""What a process may take of its machine."""

from __future__ import annotations

import resource
from multiprocessing.connection import Connection

import pytest
import torch

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
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip(f"this user may open {hard} files at most")
    ours, theirs = pipe()
    process = start(open_many, theirs)
    assert heard(ours) == [512, 2512, 2512, 3000]
    assert exit_code(process) == 0


AVX512 = {"sse4_1", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        (AVX512, None, "avx512_core"),
        (AVX512, "ALL", "avx512_core"),
        (AVX512, "AVX2_VNNI", "avx2"),
        (AVX512, "AVX512_CORE_BF16", "avx512_core"),
        (AVX512 - {"avx512vl"}, None, "avx2"),
        ({"avx", "sse4_1"}, None, "avx"),
        (set(), None, "unknown"),
    ],
)
def test_what_onednn_uses_follows_the_cpu_and_the_limit(
    flags: set[str], limit: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpu_flags", lambda: flags)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert machine.onednn_isa() == expected
    capability = f"AMD {torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setattr(machine, "_cpu_fact", lambda name: "AuthenticAMD" if name == "vendor_id" else "")
    for name in ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"):
        monkeypatch.delenv(name, raising=False)
    assert machine.describe_numerics(torch.device("cpu")) == f"{capability}, oneDNN {expected}, 1 thread"
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2")  # moves accuracies of `digits` by a point
    assert machine.describe_numerics(torch.device("cpu")) == f"{capability}, MKL AVX2, oneDNN {expected}, 1 thread"
    monkeypatch.delenv("MKL_ENABLE_INSTRUCTIONS")
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")  # half the digits of every product
    described = f"{capability}, oneDNN {expected} with bf16 math, 1 thread"
    assert machine.describe_numerics(torch.device("cpu")) == described
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert machine.onednn_isa() == "off"


@pytest.mark.parametrize(
    ("visible", "count", "processes", "shares"),
    [(None, 4, 2, ["0,2", "1,3"]), ("5,GPU-a", 2, 2, ["5", "GPU-a"]), ("3,1", 2, 3, ["3", "1", "3"]),
     ("0,-1,2", 1, 2, [None, None]), (None, 0, 1, [None])],
)  # fmt: skip
def test_processes_share_the_gpus_that_are_visible(
    visible: str | None, count: int, processes: int, shares: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(name, raising=False)
    if visible is not None:
        monkeypatch.setenv(name, visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [machine.gpus_of(number, processes).get(name) for number in range(processes)] == shares
