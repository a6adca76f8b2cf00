"""The machine and the checkout a run happens on: commit, package versions, devices, numerics, memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

#: of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

PACKAGES = ("torch", "torchvision", "numpy", "mlflow", "scikit-learn", "pillow", "timm")


@functools.cache
def git_state() -> tuple[str, bool]:
    """Return (commit, dirty) of the checkout this code runs from; ("unknown", True) outside one."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return commit, dirty


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that touch a run's numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def set_numerics(device: torch.device, threads: int) -> None:
    """Set what a run's numbers depend on: the threads of a CPU, and on a GPU fp32 that is fp32."""
    torch.set_num_threads(threads)
    if device.type == "cuda":  # cuDNN would use tf32 unasked
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def has_fast_bf16(device: str) -> bool:
    """Return whether the device computes bf16 several times as fast as fp32: NVIDIA from Ampere on.

    CPUs are left out: whether they do depends on their type, and their numbers should not.
    """
    if not device.startswith("cuda"):
        return False
    return torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)


#: bf16 that takes longer than this, in times of fp32, is refused on a CPU unless it is asked for by force
SLOW_BF16 = 1.2


@functools.cache
def bf16_slowdown() -> float:
    """Time one 3 x 3 convolution on this CPU and return bf16's seconds over fp32's, measured once per process.

    0.5 where the CPU has bf16 instructions; without them bf16 is emulated, and 5 to 9 was seen.
    """
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    x_BCHW = torch.ones(16, 64, 16, 16).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def seconds(dtype: torch.dtype) -> float:
        layer, x = convolution.to(dtype), x_BCHW.to(dtype)
        layer(x)
        taken = []
        for _ in range(5):
            started = time.thread_time()  # of one thread, so that other processes hardly matter
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
    """Return the widest instruction set that torch uses on this CPU, e.g. `AVX2` or `AVX512`."""
    return torch.backends.cpu.get_cpu_capability()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one, instead of asking the kernel for zeroed pages every time.

    Activations of 224 x 224 images are large; on a CPU half of such a step was page faults.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to set
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give back what is kept: between phases whose tensors have other sizes, it would pile up."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def command_line() -> str:
    """Return the command that started this process, as a person would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    start = [sys.argv[0] or "python"] if module is None else ["python", "-m", module.name.removesuffix(".__main__")]
    return shlex.join([*start, *sys.argv[1:]])


def describe_device(device: torch.device) -> str:
    """Return the device in words, e.g. `NVIDIA H200` or `CPU x86_64 (2 cores)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {_cpu_model()} ({available_cores()} cores)"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def available_cores() -> int:
    """Return how many cores this process may use (not how many the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one ends the process as usual."""

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
