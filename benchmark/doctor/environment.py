"""Checks of Python, packages, devices and data."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark import machine
from benchmark.doctor.base import Finding, Places, size_text

ROOT = Path(__file__).resolve().parents[2]
#: less free disk than this is noted, bytes
LITTLE_DISK = 5e9


def python(places: Places) -> Iterator[Finding]:
    """Python is one that the project supports."""
    version = platform.python_version_tuple()
    fits = (3, 11) <= (int(version[0]), int(version[1])) < (3, 14)
    text = f"Python {platform.python_version()}"
    yield Finding("ok", text) if fits else Finding("wrong", f"{text}: 3.11 to 3.13 are supported; make .venv again")


def packages(places: Places) -> Iterator[Finding]:
    """Packages have the versions of the lock file; optional ones may be missing."""
    lock = ROOT / "requirements.lock"
    if not lock.exists():
        yield Finding("note", "no requirements.lock beside the code: versions are not checked")
        return
    wanted = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))
    needed = {re.split(r"[^A-Za-z0-9._-]", one)[0] for one in _required()}
    others, missing = [], []
    for name, version in wanted.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed.partition("+")[0] != version.partition("+")[0]:
            others.append(f"{name} {installed} (locked: {version})")
    if absent := sorted(needed & {*missing}):
        yield Finding("wrong", f"not installed: {', '.join(absent)}; `make install` installs the lock file")
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield Finding("note", f"not as locked, numbers may differ: {', '.join(others[:5])}{more}; `make install`")
    if not absent and not others:
        yield Finding("ok", f"{len(wanted) - len(missing)} packages are as locked")


def _required() -> list[str]:
    """Requirements of the project without its extras; none when it is not installed."""
    try:
        every = importlib.metadata.requires("sdd-benchmark") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [one for one in every if "extra ==" not in one]


def devices(places: Places) -> Iterator[Finding]:
    """The devices that train."""
    yield Finding("ok", f"{machine.describe_device(torch.device('cpu'))}, {machine.cpu_capability()}")
    for number in range(torch.cuda.device_count()):
        yield Finding("ok", f"cuda:{number}: {machine.describe_device(torch.device('cuda', number))}")
    if not torch.cuda.is_available():
        reason = "torch is built without CUDA" if torch.version.cuda is None else "its driver finds no device"
        yield Finding("note", f"no GPU: {reason}")


def data_sets(places: Places) -> Iterator[Finding]:
    """What lies under the data folder, unread: `prepare` checks a data set, which may unpack and decode it."""
    root = places.options.data_root
    if not root.is_dir():
        yield Finding("note", f"{root} does not exist: only digits is here; --data names another folder")
    else:
        found = sorted(path.name for path in root.iterdir() if not path.name.startswith(".") and path.name != "cache")
        names = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        yield Finding("ok", f"{root} has {names or 'nothing'}; `python -m benchmark prepare NAME` checks a data set")
    free = shutil.disk_usage(next(one for one in [places.runs, *places.runs.parents] if one.exists())).free
    yield Finding("note" if free < LITTLE_DISK else "ok", f"{size_text(free)} of disk are free")
