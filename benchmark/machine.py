"""The machine a run happens on: devices, numerics, memory, signals."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import platform
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

from benchmark import process

#: variable by which CUDA is told which GPUs a process sees: their numbers or names
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
#: constants of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def set_numerics(device: torch.device, threads: int) -> None:
    """Set the number of CPU threads, and on a GPU turn TF32 off: a run's numbers depend on both."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        if device.index is not None:  # else pinned memory and libraries would use the first one as well
            torch.cuda.set_device(device)
        # cuDNN uses TF32 by default
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def has_fast_bf16(device: str) -> bool:
    """Whether the device computes bf16 several times as fast as fp32: NVIDIA from Ampere on.

    CPUs never count as fast: whether they are depends on their model, and a run's numbers should not.
    """
    if not device.startswith("cuda"):
        return False
    return torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)


#: bf16 that takes more than this many times as long as fp32 is refused on a CPU, unless it is forced
SLOW_BF16 = 1.2


@functools.cache
def bf16_slowdown() -> float:
    """Time one 3 x 3 convolution on this CPU and return bf16's seconds over fp32's, measured once per process.

    0.1 to 0.5 was measured where the CPU has bf16 instructions, and 5 to 9 where bf16 is emulated.
    """
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    x_BCHW = torch.ones(16, 64, 16, 16).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def seconds(dtype: torch.dtype) -> float:
        layer, x = convolution.to(dtype), x_BCHW.to(dtype)
        layer(x)
        taken = []
        for _ in range(5):
            started = time.thread_time()  # CPU time of one thread, so that other processes hardly matter
            layer(x)
            taken.append(time.thread_time() - started)
        return min(taken)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return seconds(torch.bfloat16) / seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def cpu_capability() -> str:
    """Widest instruction set that torch uses on this CPU, e.g. `AVX2` or `AVX512`."""
    return torch.backends.cpu.get_cpu_capability()


def onednn_isa() -> str:
    """Widest instruction set that oneDNN's fp32 convolutions use here: `avx512_core`, `avx2`, ...; `off` without it.

    oneDNN chooses by the CPU, below a limit that the environment may set; ATEN_CPU_CAPABILITY does not move it.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return "off"
    has = _cpu_flags()
    if not has:
        return "unknown"
    limit = _onednn_setting("MAX_CPU_ISA") or "ALL"
    names = [name for name, _ in _ISAS]
    highest = max((n for n, name in enumerate(names) if limit.lower().startswith(name)), default=len(names) - 1)
    usable = [name for name, needs in _ISAS[: highest + 1] if needs <= has]
    return usable[-1] if usable else "none"


def _onednn_setting(name: str) -> str | None:
    return os.environ.get(f"ONEDNN_{name}") or os.environ.get(f"DNNL_{name}")


#: instruction sets with kernels for fp32 of their own, from the narrowest, with the flags of /proc/cpuinfo they need
_ISAS: tuple[tuple[str, frozenset[str]], ...] = (
    ("sse41", frozenset({"sse4_1"})),
    ("avx", frozenset({"avx"})),
    ("avx2", frozenset({"avx2", "fma"})),
    ("avx512_core", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})),
)


_MAKERS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}


def describe_numerics(device: torch.device) -> str:
    """Describe what a run's numbers depend on beside its configuration and packages, as this process is set now.

    `Intel AVX512, oneDNN avx512_core, 1 thread` or `NVIDIA H200, compute capability 9.0`: CPUs of one name may differ
    here. The maker counts: on the same instruction set MKL and oneDNN choose other kernels on another maker's CPU.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    threads = torch.get_num_threads()
    # by this setting oneDNN multiplies fp32 numbers in a shorter format, whatever precision was asked for
    math = (_onednn_setting("DEFAULT_FPMATH_MODE") or "strict").lower()
    shorter = "" if math == "strict" else f" with {math} math"
    maker = _MAKERS.get(vendor := _cpu_fact("vendor_id"), vendor)
    limit = os.environ.get("MKL_ENABLE_INSTRUCTIONS") or os.environ.get("MKL_CBWR")
    parts = [
        f"{maker} {cpu_capability()}".strip(),
        *([] if limit is None else [f"MKL {limit}"]),
        f"oneDNN {onednn_isa()}{shorter}",
        f"{threads} thread{'s' if threads > 1 else ''}",
    ]
    return ", ".join(parts)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next step, instead of asking for zeroed pages every time.

    Activations of 224 x 224 images are large; on a CPU half of such a step was page faults.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to set
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give kept memory back to the kernel: between phases with tensors of other sizes it would pile up."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def allow_open_files(count: int) -> None:
    """Let this process have `count` open files beside its usual ones, as far as the system's hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ceiling), hard))


def describe_device(device: torch.device) -> str:
    """Describe the device, e.g. `NVIDIA H200` or `CPU x86_64 (2 cores)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {_cpu_model()} ({process.available_cores()} cores)"


def _cpu_model() -> str:
    return _cpu_fact("model name") or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpu_fact("flags").split())


@functools.cache
def _cpu_fact(name: str) -> str:
    """A line of /proc/cpuinfo, of the first core; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == name), "")


def num_gpus() -> int:
    """Number of GPUs that this process may use."""
    return torch.cuda.device_count()


def gpus_of(number: int, processes: int) -> dict[str, str]:
    """Environment in which process `number` of so many, counted from 0, sees its share of this process's GPUs only.

    GPUs are dealt out in turns; processes share them where there are fewer GPUs. With fewer than two it is empty: there
    is nothing to choose.
    """
    count = num_gpus()
    if count < 2:
        return {}
    named = os.environ.get(_VISIBLE_GPUS)
    gpus = list(map(str, range(count))) if named is None else named.split(",")[:count]
    return {_VISIBLE_GPUS: ",".join(gpus[number % count :: processes])}


def is_main() -> bool:
    """Whether this process is the command's own, not a worker's: what is worth saying is said once."""
    return multiprocessing.parent_process() is None


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second ends the process as usual."""

    def handle(number: int, frame: FrameType | None) -> None:
        for which, old in before.items():
            signal.signal(which, old)
        stop()

    before = {which: signal.signal(which, handle) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, old in before.items():
            signal.signal(which, old)
