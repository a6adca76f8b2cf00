"""Registries of named things, one per kind. Standard library only, so that every package may use them."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmark.errors import UserError, among

T = TypeVar("T")


class NameTaken(ValueError):
    """Two things of one kind were registered under one name."""


@dataclass(frozen=True)
class Origin:
    """Code outside the project that registers things: its name, and the SHA-256 of its content."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} sha256:{self.sha256}"


#: where the code that runs now comes from, None: from the project; and where what it registered came from, by kind and
#: name, a family's name with its slash
_current: Origin | None = None
_origins: dict[tuple[str, str], Origin] = {}


@contextlib.contextmanager
def registered_by(origin: Origin | None) -> Iterator[None]:
    """Note this origin for all that is registered meanwhile."""
    global _current
    before, _current = _current, origin
    try:
        yield
    finally:
        _current = before


def origin_of(kind: str, name: str) -> Origin | None:
    """Origin of a registered thing, None for the project's own: `origin_of("distiller", "kd")`."""
    family, slash, _ = name.partition("/")
    return _origins.get((kind, name)) or (_origins.get((kind, f"{family}/")) if slash else None)


class Registry(Generic[T]):
    """A map from names to registered things of one kind (a distiller class, a network factory, a data set).

    Names with a slash (`timm/<name>`) belong to a family: `family("timm", factory)` registers one function that makes
    the entry from the rest of the name, for collections too large to list.
    """

    def __init__(self, kind: str, plural: str | None = None, listed_by: str | None = None) -> None:
        """Make an empty registry. `listed_by` is the command that lists its names, by default `benchmark list`."""
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self.listed_by = listed_by or f"python -m benchmark list {self.plural.replace(' ', '-')}"
        self._entries: dict[str, T] = {}
        self._families: dict[str, Callable[[str], T]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make the decorated thing available as `name`. Raises ValueError when the name is taken."""

        def add(entry: T) -> T:
            self.add(name, entry)
            return entry

        return add

    def add(self, name: str, entry: T) -> None:
        """Make `entry` available as `name`. Raises NameTaken, a ValueError, when the name is taken."""
        if name in self._entries:
            raise NameTaken(f"{self.kind} '{name}' is registered twice: by {self._entries[name]!r} and by {entry!r}")
        self._entries[name] = entry
        self._note_origin(name)

    def _note_origin(self, name: str) -> None:
        if _current is not None:
            _origins[self.kind, name] = _current

    def remove(self, name: str) -> None:
        """Remove an entry, e.g. before a notebook registers a changed one. Raises KeyError when there is none."""
        del self._entries[name]
        _origins.pop((self.kind, name), None)

    def family(self, prefix: str, factory: Callable[[str], T]) -> None:
        """Make every `prefix/<rest>` available as `factory(rest)`. Raises NameTaken when the prefix is taken."""
        if prefix in self._families:
            raise NameTaken(f"{self.kind} family '{prefix}' is registered twice")
        self._families[prefix] = factory
        self._note_origin(f"{prefix}/")

    def get(self, name: str) -> T:
        """Look up `name`. Raises UserError that names the nearest known name and the command that lists them all."""
        if name in self._entries:
            return self._entries[name]
        prefix, slash, rest = name.partition("/")
        if slash and prefix in self._families:
            return self._families[prefix](rest)
        raise unknown(self.kind, name, self.names(), self.families(), self.listed_by)

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match a shell pattern, sorted; families are not enumerated."""
        return sorted(name for name in self._entries if fnmatch.fnmatchcase(name, pattern))

    def families(self) -> tuple[str, ...]:
        """Prefixes of the families, sorted."""
        return tuple(sorted(self._families))

    def in_order(self, order: Sequence[str]) -> list[T]:
        """All registered things: first those that `order` names, in its order, then the others by name."""
        named = [name for name in order if name in self._entries]
        return [self._entries[name] for name in [*named, *sorted(self._entries.keys() - set(order))]]

    def __contains__(self, name: str) -> bool:
        return name in self._entries or (name.partition("/")[0] in self._families and "/" in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def unknown(kind: str, name: str, names: Iterable[str], families: Iterable[str], listed_by: str) -> UserError:
    """Make the error for an unknown name: the nearest known one, all of them, and the command that lists them."""
    also = "".join(f", {family}/<name>" for family in families)
    return UserError(f"unknown {kind} '{name}'{among(name, names)}{also} (list them with `{listed_by}`)")


def import_modules(package: str, path: list[str]) -> None:
    """Import every module of a package, so that adding a file is enough to register its entries.

    They are the project's own, also when it is a plugin that imports the package first.
    """
    with registered_by(None):
        for module in sorted(pkgutil.iter_modules(path), key=lambda found: found.name):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package}.{module.name}")
