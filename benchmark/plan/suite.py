"""Suites: pairs x methods x seeds, a recipe, and the published tables they rebuild; read from YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

import distillers
import models
from benchmark import catalogue
from benchmark.config import Epochs, Frozen, Name, NumRanks, Precision, Recipe, Seeds, Storage, Title, explain
from benchmark.errors import UserError, among
from benchmark.registry import Registry, registered_by

Settings = dict[str, Any]


class Pair(Frozen):
    """A teacher and a student, with their own settings."""

    teacher: str
    student: str
    #: published tables that hold this pair, the preferred first, e.g. `sdd/table2`; empty: those the suite rebuilds
    tables: list[str] = []
    recipe: Settings = {}
    #: hyperparameters by group, for every method that has the group
    parameters: dict[str, Settings] = {}
    #: settings by method: `recipe` and groups
    methods: dict[str, dict[str, Settings]] = {}

    @property
    def name(self) -> str:
        """The pair as written on the command line: `teacher:student`."""
        return f"{self.teacher}:{self.student}"


class Profile(Frozen):
    """Another form of a suite, smaller or of other methods; everything it writes carries its name."""

    #: methods and groups of them in the place of the suite's own
    methods: list[str] = []
    seeds: Seeds | None = None
    recipe: Settings = {}
    data: Settings = {}


class Suite(Frozen):
    """A suite as its YAML file describes it."""

    name: Name
    title: Title
    #: published tables that the suite rebuilds
    rebuilds: list[str] = []
    #: published tables that stand beside those where a chosen method is printed in no other
    further: list[str] = []
    data: Settings
    convention: str = "code"
    precision: Precision = "fp32"
    #: None: bf16 where the device computes it fast, else fp32
    teacher_precision: Precision | None = None
    teacher_cache: Storage = "none"
    compile: bool = False
    ranks: NumRanks = 1
    sync_batch_norm: bool = False
    eval_every: Epochs = 1
    base_seed: int = 0
    seeds: Seeds = 3
    recipe: Settings = {}
    #: recipe of teachers, over the suite's
    teacher_recipe: Settings = {}
    #: recipe by student, over the suite's
    students: dict[str, Settings] = {}
    #: methods in the table's order, each with `recipe` and hyperparameter groups
    methods: dict[str, dict[str, Settings]] = Field(min_length=1)
    #: settings of further methods, which run only where they are chosen by name or group
    on_request: dict[str, dict[str, Settings]] = {}
    pairs: list[Pair] = Field(min_length=1)
    profiles: dict[Name, Profile] = {}

    def tables_of(self, pair: Pair) -> list[str]:
        """Published tables that a pair is looked up in, the preferred first."""
        return pair.tables or [*self.rebuilds, *self.further]


def form_of(suite: Suite, profile: str | None) -> Profile:
    """Look up a suite's profile; without one, a profile that changes nothing. Raises UserError for an unknown name."""
    if profile is None:
        return Profile()
    if profile not in suite.profiles:
        raise catalogue.no_profile(suite.name, profile, suite.profiles)
    return suite.profiles[profile]


#: files by name; a plugin adds its own: `suite.registry.add("mine", Path(__file__).with_name("mine.yaml"))`
registry: Registry[Path] = Registry("suite")
with registered_by(None):  # a plugin may be the first to import this module
    for _file in sorted((Path(__file__).parent / "suites").glob("*.yaml")):
        registry.add(_file.stem, _file)


def names() -> list[str]:
    """Names of the suites that come with the package or a plugin, sorted."""
    return registry.names()


def load(name: str) -> Suite:
    """Read a suite by name, or from a path that ends in .yaml.

    Raises:
        UserError: for an unknown name; for an invalid file, naming the field's path and the allowed values.
    """
    path, content = catalogue.suite_file(name), catalogue.suite_fields(name)
    try:
        suite = Suite(**{"name": name if name in registry else path.stem, **content})
        _check_keys(suite)
    except ValidationError as error:
        raise UserError(f"suite {path}: {explain(error, Suite)}") from error
    except UserError as error:
        raise UserError(f"suite {path}: {error}") from error
    return suite


def _check_keys(suite: Suite) -> None:
    """Raise UserError for an unknown name in a suite, which would otherwise be ignored silently."""
    every_group = {group for method in distillers.names() for group in distillers.groups(method)}
    for path, recipe in {"recipe": suite.recipe, "teacher_recipe": suite.teacher_recipe}.items():
        _check_milestones(path, recipe)
    for student, recipe in suite.students.items():
        models.registry.get(student)
        _check_milestones(f"students.{student}", recipe)
    for name, form in suite.profiles.items():
        _check_milestones(f"profiles.{name}.recipe", form.recipe)
        for method in form.methods:
            catalogue.check_method(method)
    _check_methods("methods", suite.methods)
    _check_methods("on_request", suite.on_request)
    if twice := suite.methods.keys() & suite.on_request.keys():
        raise UserError(f"on_request.{min(twice)}: stands under `methods` too, which run without a request")
    for number, pair in enumerate(suite.pairs):
        _check_milestones(f"pairs.{number}.recipe", pair.recipe)
        for model in (pair.teacher, pair.student):
            models.registry.get(model)
        for group in pair.parameters:
            _known(f"pairs.{number}.parameters.{group}", group, every_group)
        _check_methods(f"pairs.{number}.methods", pair.methods)


def _check_methods(path: str, methods: Mapping[str, Mapping[str, Settings]]) -> None:
    for method, settings in methods.items():
        groups = distillers.groups(method)
        for key, fields in settings.items():
            _known(f"{path}.{method}.{key}", key, ["recipe", *groups])
            for field in fields:
                known = Recipe.model_fields if key == "recipe" else groups[key].model_fields
                _known(f"{path}.{method}.{key}.{field}", field, known)
            if key == "recipe":
                _check_milestones(f"{path}.{method}.recipe", fields)


def _check_milestones(path: str, recipe: Settings) -> None:
    """Raise UserError for a milestone that the epochs written beside it never pass.

    Epochs that are set elsewhere, by a profile or `--set`, shorten a training: it keeps the milestones it reaches.
    """
    epochs, milestones = recipe.get("epochs"), recipe.get("milestones")
    if isinstance(epochs, int) and isinstance(milestones, list | tuple):
        for milestone in milestones:
            if isinstance(milestone, int) and milestone >= epochs:
                raise UserError(
                    f"{path}.milestones: {milestone} is not before the last epoch, {epochs}:"
                    " the rate would never drop there"
                )


def _known(path: str, name: str, known: Iterable[str]) -> None:
    names = sorted(known)
    if name not in names:
        raise UserError(f"{path}: unknown key{among(name, names)}")
