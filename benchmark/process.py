"""This process: the checkout that it runs from, its command line, package versions and cores. Standard library only."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import benchmark

PACKAGES = ("torch", "torchvision", "numpy", "mlflow", "scikit-learn", "pillow", "timm")


@functools.cache
def git_state() -> tuple[str, bool]:
    """Return (commit, dirty) of the checkout that this code runs from; ("unknown", True) outside a checkout."""
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


def version() -> str:
    """The package's version with the commit it runs from: `0.1.0, commit 1a2b3c4 (changed)`."""
    commit, dirty = git_state()
    if commit == "unknown":
        return f"{benchmark.__version__}, installed without git: the commit is unknown"
    return f"{benchmark.__version__}, commit {commit[:12]}{' (changed)' if dirty else ''}"


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that affect a run's numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def command_line() -> str:
    """The command that started this process, as typed in a shell."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None:
        return shlex.join([sys.argv[0] or "python", *sys.argv[1:]])
    start = ["python"]
    if launched() is not None:
        nodes = os.environ.get("GROUP_WORLD_SIZE", "1")  # where they meet is not told
        start = ["torchrun", *([] if nodes == "1" else [f"--nnodes={nodes}"])]
        start.append(f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}")
    return shlex.join([*start, "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]])


def launched() -> tuple[int, int] | None:
    """(rank, number of ranks) of a process that torchrun started; None without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def age_s() -> float:
    """Seconds since this process was started, before it imported anything; 0 where the system does not tell."""
    try:
        # after the name, which may hold spaces and brackets: ticks from the boot of the machine to the start
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, LookupError, AttributeError):
        return 0.0


def available_cores() -> int:
    """Number of cores that this process may use (not the number that the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
