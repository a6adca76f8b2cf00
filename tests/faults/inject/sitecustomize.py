"""Break a process at a named point. Python imports this module at its start when its folder is on PYTHONPATH.

The environment variable FAULT holds the fault as JSON: `actor` (the process that breaks), `place` (module:name), `when`
(before or after), `call` (which call of the place), `path` (a part of its first argument), `action`, and `once`, a file
that the first process to get there makes, so that no second one breaks. EVERY_STEP in the environment makes cohorts
write a checkpoint after every step. Standard library only: every process of a command runs it.
"""

from __future__ import annotations

import errno
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import signal
import sys
import time


def actor() -> str:
    """Name what this process is: a command, a worker of a study, or a worker that trains cohorts."""
    words = sys.orig_argv
    if any("multiprocessing.spawn" in word for word in words):
        return "cohort worker"
    return "study worker" if "--join" in words else "command"


def jump(seconds: float) -> None:
    """Move this process's wall clock; the monotonic clock goes on, as the kernel's does."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def act(action: str) -> None:
    """Do what the fault does."""
    if action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(0.01)  # the signal is handled between two instructions
    elif action == "out of memory":
        raise MemoryError("not enough memory for an array")
    elif action == "disk full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "read-only":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    elif action == "clock ahead":
        jump(86_400)
    elif action == "clock behind":
        jump(-86_400)
    else:
        raise SystemExit(f"unknown action {action}")


def broken(function, fault):
    """Wrap a function so that the fault happens before or after one of its calls."""
    calls = 0

    @functools.wraps(function)
    def call(*given, **named):
        nonlocal calls
        calls += not fault["path"] or fault["path"] in str(given[0])
        is_due = calls == fault["call"]
        if is_due and fault["when"] == "before" and is_first(fault["once"]):
            act(fault["action"])
        result = function(*given, **named)
        if is_due and fault["when"] == "after" and is_first(fault["once"]):
            act(fault["action"])
        return result

    return call


def is_first(path: str) -> bool:
    """Whether this process is the first to get here."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module as Python does, and changes it once it was executed."""

    def __init__(self, module: str, change) -> None:
        self.module, self.change = module, change
        self.is_looking = False

    def find_spec(self, name, path=None, target=None):
        """Find the module, through the other finders."""
        if name != self.module or self.is_looking:
            return None
        self.is_looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.is_looking = False
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


def arm(fault) -> None:
    """Wrap the fault's place when its module is imported."""
    module, name = fault["place"].split(":")
    owner, _, attribute = name.rpartition(".")

    def change(loaded) -> None:
        holder = getattr(loaded, owner) if owner else loaded
        setattr(holder, attribute, broken(getattr(holder, attribute), fault))

    sys.meta_path.insert(0, Finder(module, change))


if "EVERY_STEP" in os.environ:
    saved = {"CHECKPOINT_SECONDS": 0.0, "SAVING_SHARE": math.inf}
    sys.meta_path.insert(0, Finder("benchmark.train.pace", lambda pace: vars(pace).update(saved)))
if "FAULT" in os.environ:
    described = json.loads(os.environ["FAULT"])
    if described["actor"] == actor():
        arm(described)
