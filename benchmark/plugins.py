"""Plugins: files and installed packages outside the project that register methods, networks, data sets or suites.

A plugin is named and hashed. What it registers carries both (`registry.origin_of`), so that a run that uses it has a
signature of its own and records it, and a run that uses nothing of it is what it was.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmark.errors import UserError
from benchmark.registry import NameTaken, Origin, registered_by

#: entry points of this group are modules of installed packages; every command loads them
GROUP = "sdd_benchmark.plugins"
_MEND = "repair or uninstall its package"


@dataclass(frozen=True)
class Plugin:
    """A plugin as it was loaded; plain and picklable, so that other processes load the same."""

    origin: Origin
    #: name of its module
    module: str
    #: the file, and what it held; for an installed package None: it is imported by its module's name
    path: Path | None = None
    source: bytes | None = None

    def __str__(self) -> str:
        return f"--plugin {self.path}" if self.path is not None else f"installed plugin '{self.origin.name}'"


_loaded: dict[str, Plugin] = {}


def loaded() -> tuple[Plugin, ...]:
    """The plugins that this process has loaded, in order."""
    return tuple(_loaded.values())


def load(files: Iterable[Path]) -> None:
    """Load the installed plugins, then these files, each once.

    Raises:
        UserError: for a file that cannot be read or imported, and for one that registers a taken name.
    """
    found = [_installed(point) for point in sorted(importlib.metadata.entry_points(group=GROUP))]
    add([*found, *map(_in_file, files)])


def add(plugins: Iterable[Plugin]) -> None:
    """Load the plugins that another process has loaded, unless this one has. Raises UserError as `load` does."""
    for plugin in plugins:
        if plugin.module not in _loaded:
            _import(plugin)
            _loaded[plugin.module] = plugin


def sources(origins: Iterable[Origin]) -> dict[str, bytes]:
    """Contents of the loaded files with these origins, by name: a checksum alone does not bring back the code."""
    wanted = set(origins)
    return {one.origin.name: one.source for one in loaded() if one.origin in wanted and one.source is not None}


def _in_file(path: Path) -> Plugin:
    if path.suffix != ".py":
        raise UserError(f"--plugin {path}: a plugin is a Python file, FILE.py")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"--plugin {path}: {error.strerror or error}") from error
    digest = hashlib.sha256(source).hexdigest()
    # beside no other file of the same name, nor a package
    return Plugin(Origin(path.name, digest), f"plugin {path.resolve()} {digest[:8]}", path.resolve(), source)


def _installed(point: importlib.metadata.EntryPoint) -> Plugin:
    name = f"{point.dist.name}:{point.name}" if point.dist is not None else point.name
    try:
        return Plugin(Origin(name, _digest(point.module)), point.module)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"installed plugin '{name}': {error}; {_MEND}") from error


def _digest(module: str) -> str:
    """SHA-256 of a module's file, or of all Python files of a package with their names."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"module '{module}' cannot be found")
    if spec.submodule_search_locations is None:
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    root, found = Path(spec.origin).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _import(plugin: Plugin) -> None:
    try:
        with registered_by(plugin.origin):
            if plugin.source is None:
                importlib.import_module(plugin.module)
            else:
                _execute(plugin.module, str(plugin.path), plugin.source)
    except NameTaken as taken:
        what = str(taken).partition(" is registered twice")[0]
        raise UserError(f"{plugin}: {what} is there already; register it under another name") from taken
    except (Exception, SystemExit) as error:
        way_out = "" if plugin.path is not None else f"; {_MEND}"
        raise UserError(f"{plugin}: {_reason(error, plugin)}{way_out}") from error
    if plugin.source is None and _digest(plugin.module) != plugin.origin.sha256:
        raise UserError(f"{plugin}: it changed while the command ran; start the command again")


def _execute(name: str, path: str, source: bytes) -> None:
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # annotations are looked up there
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise


def _reason(error: BaseException, plugin: Plugin) -> str:
    """Describe an error with the line of the plugin's file where it arose."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(plugin.path)]
    where = f"line {lines[-1]}: " if lines else ""
    text = " ".join(str(error).split())
    return f"{where}{text}" if isinstance(error, UserError) else f"{where}{type(error).__name__}: {text}"
