"""What can be asked for by name, known without importing it: registered things import torch, and a mistake need not.

Names are read from the source, where plug-ins register them: `@registry.register("digits")`, `@sample_loss("kd", ...)`
and the like at the top level of a file, with names as literals. A file that registers in another way (in a loop, by a
computed name) cannot be read; its package is then imported, which takes seconds and is always right. A package that is
imported already is asked itself, so that names registered by a notebook or a plug-in count.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from benchmark import plain_yaml
from benchmark.errors import UserError, among
from benchmark.registry import Registry, unknown

#: most repetitions of a method
MAX_SEEDS = 1000
#: words for many methods, wherever methods are chosen by name; `benchmark.plan.groups` says which ones they are
METHOD_GROUPS: Mapping[str, str] = {
    "logit": "methods on logits",
    "feature": "methods on feature maps",
    "paper": "the suite's own",
    "later": "methods on logits that the suite's own list lacks",
    "all": "every method",
}


@dataclass(frozen=True)
class Entry:
    """A name, its printed title and one line about it, as far as its kind has them."""

    name: str
    title: str = ""
    summary: str = ""
    #: the group of `METHOD_GROUPS` that a method is in by what it looks at: `logit` or `feature`
    group: str = ""


@dataclass(frozen=True)
class Names:
    """All names of a kind, and the families (`timm/<name>`) that are too large to list."""

    entries: Mapping[str, Entry]
    families: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        prefix, slash, _ = name.partition("/")
        return name in self.entries or (bool(slash) and prefix in self.families)


@dataclass(frozen=True)
class Kind:
    """Where the things of a kind are registered, and how one of them is described."""

    #: one thing, in messages; and the command that lists all of them
    singular: str
    listed_by: str
    #: imported, it has registered everything
    package: str
    #: module of the registry
    home: str
    #: describes a registered thing
    describe: Callable[[str, Any], Entry] = lambda name, thing: Entry(name)


def first_line(text: str | None) -> str:
    """First line of a docstring, or an empty string."""
    return (text or "").strip().partition("\n")[0]


def _method(name: str, thing: Any) -> Entry:
    return Entry(name, thing.title, first_line(thing.__doc__), group_of(thing.sees))


def _by_docstring(name: str, thing: Any) -> Entry:
    return Entry(name, getattr(thing, "title", ""), first_line(thing.__doc__))


def _by_module(name: str, thing: Any) -> Entry:
    return Entry(name, "", first_line(sys.modules[thing.__module__].__doc__))


def _by_title(name: str, thing: Any) -> Entry:
    return Entry(name, thing.title)


_LIST = "python -m benchmark list"
KINDS: Mapping[str, Kind] = {
    "methods": Kind("distiller", f"{_LIST} methods", "distillers", "distillers.base", _method),
    "models": Kind("model", f"{_LIST} models", "models", "models.base"),
    "datasets": Kind("data set", f"{_LIST} datasets", "benchmark.datasets", "benchmark.datasets.base", _by_module),
    "views": Kind("view", f"{_LIST} views", "benchmark.datasets", "benchmark.datasets.views", _by_docstring),
    "engines": Kind(
        "engine",
        "python -m benchmark.run --help",
        "benchmark.execution.engines",
        "benchmark.execution.engines.base",
        _by_docstring,
    ),
    "studies": Kind(
        "study",
        "python -m benchmark.study",
        "studies.questions",
        "studies.base",
        lambda name, thing: Entry(name, "", thing.question),
    ),
    "sections": Kind("section", "python -m reports --list", "reports.sections", "reports.base", _by_title),
    "measurements": Kind(
        "measurement",
        "python -m benchmark.perf --help",
        "benchmark.perf.measurements",
        "benchmark.perf.base",
        _by_title,
    ),
}


def known(kind: str) -> Names:
    """All names of a kind (a key of `KINDS`): of its package when that is imported, else read from the source."""
    if KINDS[kind].package in sys.modules:
        return imported(kind)
    try:
        return read(kind)
    except Unreadable:
        return imported(kind)


def check(kind: str, name: str) -> None:
    """Raise UserError for an unknown name, with the nearest known one and the command that lists them all."""
    names = known(kind)
    if name not in names:
        raise unknown(KINDS[kind].singular, name, sorted(names.entries), names.families, KINDS[kind].listed_by)


def check_method(name: str) -> None:
    """Raise UserError for a name that is neither a method nor a group of methods."""
    names = known("methods")
    if name not in names and name not in METHOD_GROUPS:
        spec, every = KINDS["methods"], [*METHOD_GROUPS, *sorted(names.entries)]
        raise unknown(spec.singular, name, every, names.families, spec.listed_by)


def group_of(sees: str) -> str:
    """The group of a method by what it looks at (`Distiller.sees`)."""
    return "logit" if sees == "logits" else "feature"


def imported(kind: str) -> Names:
    """Import the package of a kind, and ask its registry."""
    spec = KINDS[kind]
    importlib.import_module(spec.package)
    registry: Registry[Any] = importlib.import_module(spec.home).registry
    order = getattr(sys.modules[spec.package], "ORDER", ())
    entries = {name: spec.describe(name, registry.get(name)) for name in _in_order(registry.names(), order)}
    return Names(entries, registry.families())


def _in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """The names that `order` has, in its order, then the others, sorted."""
    every = set(names)
    return [*(name for name in order if name in every), *sorted(every - set(order))]


# -- suites ----------------------------------------------------------------------------------------------------------


def suites() -> list[str]:
    """Names of the suites that come with the package or a plugin, sorted."""
    return sorted(_suite_files())


def suite_file(name: str) -> Path:
    """Path of a suite, by its name or as a path that ends in .yaml. Raises UserError for an unknown name."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    files = _suite_files()
    if name not in files:
        raise UserError(
            f"unknown suite '{name}'{among(name, suites())}"
            " (list them with `python -m benchmark list suites`; a path to a .yaml file works too)"
        )
    return files[name]


def suite_fields(name: str) -> dict[str, Any]:
    """Read a suite's fields, unchecked. Raises UserError for an unknown name or a file that is no YAML."""
    path = suite_file(name)
    try:
        content = plain_yaml.read(path)
        if not isinstance(content, dict):
            raise UserError("must hold fields by name, e.g. `title: ...`")
    except UserError as error:
        raise UserError(f"suite {path}: {error}") from error
    return content


def data_set(name: str) -> str:
    """Name of a data set, which may be given as a suite's name or file. Raises UserError for an unknown name."""
    if name not in known("datasets") and (name in suites() or name.endswith((".yaml", ".yml"))):
        data = suite_fields(name).get("data")
        name = str(data.get("name")) if isinstance(data, dict) else ""
    check("datasets", name)
    return name


def check_suite(name: str, profile: str | None = None) -> None:
    """Raise UserError for an unknown suite, a file that is no YAML, or an unknown profile of it."""
    fields = suite_fields(name)
    profiles = fields.get("profiles", {})
    if profile is not None and isinstance(profiles, dict) and profile not in profiles:
        raise no_profile(str(fields.get("name", suite_file(name).stem)), profile, profiles)


def no_profile(suite: str, profile: str, profiles: Iterable[str]) -> UserError:
    """Make the error for an unknown profile of a suite."""
    return UserError(f"suite '{suite}' has no profile '{profile}'{among(profile, profiles)}")


def _suite_files() -> dict[str, Path]:
    """Files of the suites by name: of the registry where it is imported, since plugins add to it."""
    module = sys.modules.get("benchmark.plan.suite")
    if module is not None:
        registry: Registry[Path] = module.registry
        return {name: registry.get(name) for name in registry.names()}
    return {path.stem: path for path in Path(str(resources.files("benchmark.plan") / "suites")).glob("*.yaml")}


# -- reading names from the source -----------------------------------------------------------------------------------


class Unreadable(Exception):
    """A file registers names in a way that is not read here."""


@cache
def read(kind: str) -> Names:
    """Read the names that the files of a package register. Raises Unreadable when a file has to be imported for that.

    The results equal `imported(kind)`: a contract test compares them.
    """
    spec = KINDS[kind]
    files = sorted(_folder(spec.package).glob("[!_]*.py"))
    names = read_files(kind, {path: f"{spec.package}.{path.stem}" for path in files})
    order = _order(ast.parse((_folder(spec.package) / "__init__.py").read_text(encoding="utf-8")))
    return Names({name: names.entries[name] for name in _in_order(names.entries, order)}, names.families)


def _order(tree: ast.Module) -> Sequence[str]:
    """The literal `ORDER` of a package, or nothing."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["ORDER"]:
            return [str(name) for name in ast.literal_eval(node.value)]
    return ()


def read_files(kind: str, modules: Mapping[Path, str]) -> Names:
    """Read the names of a kind that files register, given with their modules' names; see `read`."""
    sources = [_Source(name, ast.parse(path.read_text(encoding="utf-8"))) for path, name in modules.items()]
    reader = _Reader(kind)
    for source in sources:
        reader.take(source)
    reader.settle()
    return Names(dict(sorted(reader.entries.items())), tuple(sorted(reader.families)))


class _Source:
    """A parsed file and the full names of what it imports and defines."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree
        self.names: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self.names[alias.asname or alias.name.partition(".")[0]] = alias.name
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def full_name(self, node: ast.expr) -> str:
        """Full name of a dotted expression: `registry` as `models.base.registry`; "" for any other expression."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, f"{self.name}.{node.id}")
        if isinstance(node, ast.Attribute):
            return f"{self.full_name(node.value)}.{node.attr}"
        return ""


#: the functions that register, by what they do with their first argument or with what they decorate
_SAMPLE_LOSS, _MODIFIER = "distillers.sample_loss.sample_loss", "distillers.loss_modifier.loss_modifier"
_FEATURE_LOSS = "distillers.feature_loss.feature_loss"
_CLASS, _WITH_SDD = ("distillers.base.register", "studies.base.register"), "distillers.sdd.register_with_sdd"
#: what a loss on features looks at unless it says so
_STAGES = ast.Constant("stages")
_TITLED = ("reports.base.section", "benchmark.perf.base.measurement")
_REGISTERING = {_SAMPLE_LOSS, _FEATURE_LOSS, _MODIFIER, *_CLASS, _WITH_SDD, *_TITLED}
_METHODS = ("register", "add", "family")

Decorated = ast.ClassDef | ast.FunctionDef | None


@dataclass
class _Reader:
    """The names of one kind, as its files are read."""

    kind: str
    entries: dict[str, Entry] = field(default_factory=dict)
    families: list[str] = field(default_factory=list)
    #: the method by the full name of the class of its hyperparameters
    _by_parameters: dict[str, Entry] = field(default_factory=dict)
    #: name, title and changed classes of every modifier of losses
    _modifiers: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def take(self, source: _Source) -> None:
        """Read a file. Raises Unreadable for a registration that is not one statement with a literal name."""
        for node in source.tree.body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._registration(source, node.value, None)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                for decorator in node.decorator_list:
                    call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
                    self._registration(source, call, node)
                if f"{source.name}.{node.name}" not in _REGISTERING:
                    self._refuse_hidden(source, node.body)
            elif not isinstance(node, ast.Import | ast.ImportFrom):
                self._refuse_hidden(source, [node])

    def settle(self) -> None:
        """Add the modified forms of methods, once every file is read."""
        for name, title, changed in self._modifiers:
            for parameters in changed:
                if parameters not in self._by_parameters:
                    raise Unreadable(parameters)
                method = self._by_parameters[parameters]
                summary = f"{method.title} with its loss per sample changed by `{name}`."
                self._add_with_sdd(Entry(f"{name}_{method.name}", title.format(method.title), summary, method.group))

    def _registration(self, source: _Source, call: ast.Call, decorated: Decorated) -> None:
        """Add what a call registers, if it does."""
        function = source.full_name(call.func)
        home, _, verb = function.rpartition(".registry.")
        if verb in _METHODS:
            self._by_registry(source, home, verb, call, decorated)
        elif function in (_SAMPLE_LOSS, _FEATURE_LOSS) and isinstance(decorated, ast.ClassDef):
            name, title = _text(_argument(call, 0, "name")), _text(_argument(call, 1, "title"))
            sees = "logits" if function == _SAMPLE_LOSS else _text(_class_values(decorated).get("sees", _STAGES))
            entry = Entry(name, title, first_line(ast.get_docstring(decorated)), group_of(sees))
            self._by_parameters[f"{source.name}.{decorated.name}"] = entry
            self._add_with_sdd(entry) if function == _SAMPLE_LOSS else self._add(entry)
        elif function == _MODIFIER:
            of = _argument(call, 9, "of")
            if not isinstance(of, ast.Dict) or not all(of.keys):
                raise Unreadable(source.name)
            changed = [source.full_name(key) for key in of.keys if key is not None]
            self._modifiers.append((_text(_argument(call, 0, "name")), _text(_argument(call, 1, "title")), changed))
        elif function in _CLASS or function == _WITH_SDD:
            self._by_class(source, call, decorated, with_sdd=function == _WITH_SDD)
        elif function in _TITLED and decorated is not None:
            self._add(Entry(decorated.name, _text(_argument(call, 0, "title"))))

    def _by_registry(self, source: _Source, home: str, verb: str, call: ast.Call, decorated: Decorated) -> None:
        if home != KINDS[self.kind].home:  # files of one folder register data sets and views
            return
        name = _text(_argument(call, 0, "name"))
        if verb == "family":
            self.families.append(name)
        elif self.kind == "datasets":
            self._add(Entry(name, "", first_line(ast.get_docstring(source.tree))))
        elif self.kind == "models" or decorated is None:
            self._add(Entry(name))
        else:
            self._add(Entry(name, "", first_line(ast.get_docstring(decorated))))

    def _by_class(self, source: _Source, call: ast.Call, decorated: Decorated, with_sdd: bool) -> None:
        """Add a class that says its name itself."""
        argument = call.args[0] if call.args else None
        given = source.classes.get(argument.id) if isinstance(argument, ast.Name) else decorated
        if not isinstance(given, ast.ClassDef):
            raise Unreadable(source.name)
        values = _class_values(given)
        if self.kind == "studies":
            self._add(Entry(_text(values.get("name")), "", _text(values.get("question"))))
            return
        sees = _text(values.get("sees", ast.Constant("logits")))
        summary = first_line(ast.get_docstring(given))
        entry = Entry(_text(values.get("name")), _text(values.get("title")), summary, group_of(sees))
        groups = values.get("groups")
        if isinstance(groups, ast.Dict) and len(groups.values) == 1:
            self._by_parameters[source.full_name(groups.values[0])] = entry
        self._add_with_sdd(entry) if with_sdd else self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.entries[entry.name] = entry

    def _add_with_sdd(self, entry: Entry) -> None:
        title, summary = _decoupling()
        self._add(entry)
        self._add(Entry(f"sdd_{entry.name}", title.format(entry.title), summary.format(entry.title), entry.group))

    def _refuse_hidden(self, source: _Source, nodes: list[ast.stmt]) -> None:
        """Raise Unreadable when something is registered inside of other statements."""
        for node in nodes:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call):
                    function = source.full_name(inner.func)
                    home, _, verb = function.rpartition(".registry.")
                    if function in _REGISTERING or (verb in _METHODS and home == KINDS[self.kind].home):
                        raise Unreadable(f"{source.name}, line {inner.lineno}")


@cache
def _decoupling() -> tuple[str, str]:
    """Title and summary of scale-decoupled forms, from `DECOUPLING = Modifier("sdd", title=..., summary=...)`."""
    tree = ast.parse((_folder("distillers") / "sdd.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Name) and call.func.id == "Modifier":
                return _text(_argument(call, 1, "title")), _text(_argument(call, 2, "summary"))
    raise Unreadable("distillers.sdd")


def _folder(package: str) -> Path:
    """Folder of a package, which is not imported for it."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, package
    return Path(next(iter(found.submodule_search_locations)))


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    """An argument of a call, given by place or by name."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    return call.args[place] if place < len(call.args) else named.get(name)


def _class_values(node: ast.ClassDef) -> dict[str, ast.expr]:
    """What a class sets by name in its body."""
    values: dict[str, ast.expr] = {}
    for one in node.body:
        if isinstance(one, ast.Assign):
            values |= {target.id: one.value for target in one.targets if isinstance(target, ast.Name)}
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.value is not None:
            values[one.target.id] = one.value
    return values


def _text(node: ast.expr | None) -> str:
    """A text that is written as a literal. Raises Unreadable for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise Unreadable("a name or a text that is computed")
