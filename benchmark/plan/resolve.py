"""Plans: a suite and a command's choices, resolved into runs.

Settings are merged, later ones overriding earlier ones: defaults and convention < suite recipe < student's recipe <
method < pair < pair's method < profile < `--set`. Method hyperparameters are groups (`dkd: {beta: 6}`) and reach every
method that has the group, the scale-decoupled form too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

import distillers
import models
from benchmark import catalogue, datasets, machine, plain_yaml
from benchmark.config import Data, Precision, Recipe, RunConfig, explain, validated
from benchmark.datasets import views
from benchmark.errors import UserError, among, nearest, shown, unprintable
from benchmark.plan.fit import fit_of
from benchmark.plan.groups import expand
from benchmark.plan.suite import Pair, Profile, Settings, Suite, form_of

#: recipe fields set by a convention; the distillers themselves set the methods' hyperparameters
CONVENTION_RECIPE: dict[str, Settings] = {"code": {"clip_norm": 40.0}, "paper": {"clip_norm": None}}
TEACHER_REPETITION = 0
#: runs of one plan; every one is a folder, a lock and a row in MLflow
MAX_RUNS = 20_000


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: a student of a pair under a method and a seed."""

    config: RunConfig
    pair: Pair
    #: further tags of the run in MLflow
    tags: Mapping[str, str] = field(default_factory=dict)
    #: name of the run where its method and seed do not identify it, e.g. `trial 12, seed 1`
    title: str = ""

    @property
    def label(self) -> str:
        """Readable name of the run: its title, or else e.g. `resnet8x4 -> resnet8, sdd_kd, seed 2`."""
        if self.title:
            return self.title
        teacher = f"{self.config.teacher} -> " if self.config.teacher else ""
        return f"{teacher}{self.config.student}, {self.config.method}, seed {self.config.repetition}"


@dataclass(frozen=True)
class Refused:
    """A method that cannot run on a pair, and why."""

    pair: str
    method: str
    reason: str

    def __str__(self) -> str:
        return f"{self.method} cannot run on {self.pair}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """A command's request, resolved: every run, and the recipe of every teacher.

    The same run may be planned more than once, under several titles; it is trained only once.
    """

    suite: Suite
    profile: str | None
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...]
    seeds: int
    runs: tuple[PlannedRun, ...]
    teachers: Mapping[str, RunConfig]
    #: `--set` assignments that change the suite, as written; without those in `_no_changes`
    changes: tuple[str, ...] = ()
    #: its experiment in MLflow, if not the suite's own
    experiment: str | None = None
    #: methods that cannot run on a pair, of which no run is planned
    refused: tuple[Refused, ...] = ()

    @property
    def name(self) -> str:
        """Name of the suite, with the profile: `cub` or `cub (smoke)`."""
        return f"{self.suite.name} ({self.profile})" if self.profile else self.suite.name

    @property
    def slug(self) -> str:
        """Name as used in file names: `cub` or `cub-smoke`."""
        return f"{self.suite.name}-{self.profile}" if self.profile else self.suite.name

    @property
    def experiment_name(self) -> str:
        """Name of its experiment in MLflow: `experiment`, or else the slug."""
        return self.experiment or self.slug

    @property
    def file_name(self) -> str:
        """Slug, with a hash of the choices when they are a part of the suite or `--set` changed it."""
        form = form_of(self.suite, self.profile)
        choice = [[pair.name for pair in self.pairs], self.methods, self.seeds, self.changes, *self._images]
        usual_methods, usual_seeds = _choose_methods(self.suite, form.methods), form.seeds or self.suite.seeds
        whole = [[pair.name for pair in self.suite.pairs], usual_methods, usual_seeds, ()]
        if choice == whole:
            return self.slug
        return f"{self.slug}-{hashlib.sha256(json.dumps(choice).encode()).hexdigest()[:6]}"

    @property
    def _images(self) -> list[str]:
        chosen = {key: self.data.options.get(key) for key in datasets.choices(self.data.name)}
        return [f"{key}={value}" for key, value in chosen.items() if value != self.suite.data.get(key)]

    def changes_of(self, method: str) -> tuple[str, ...]:
        """Those of `changes` that concern a method: not the hyperparameters of others."""
        foreign = {group for name in distillers.names() for group in distillers.groups(name)}
        foreign -= distillers.groups(method).keys()
        return tuple(change for change in self.changes if change.partition("=")[0].partition(".")[0] not in foreign)

    @property
    def data(self) -> Data:
        """Images of the plan's runs; the same for all of them."""
        return self.runs[0].config.data


def make_plan(
    suite: Suite,
    *,
    profile: str | None = None,
    methods: Sequence[str] = (),
    pairs: Sequence[str] = (),
    seeds: int | None = None,
    assignments: Iterable[str] = (),
    device: str = "cpu",
    tuning: bool = False,
) -> Plan:
    """Resolve a suite and a command's choices into runs; settings that depend on the device are chosen for `device`.

    With `tuning`, students are ranked on the validation split and never see the test set; teachers do not change.

    Raises:
        UserError: for an unknown method, pair, model, profile or key, and for values out of their range; for `tuning`
            without a validation split.
    """
    form = form_of(suite, profile)
    written = tuple(assignments)
    changes = parse_assignments(written)
    top = {key: changes.pop(key) for key in _TOP_FIELDS if key in changes}
    try:
        suite = suite.model_validate({**suite.model_dump(), **top})
    except ValidationError as error:
        raise UserError(f"--set {explain(error, Suite)}") from error
    chosen_methods = _choose_methods(suite, methods or form.methods)
    chosen_pairs = _choose_pairs(suite, pairs)
    if suite.teacher_precision is None:
        suite = suite.model_copy(update={"teacher_precision": _teacher_precision(suite, device)})
    num_seeds = seeds or form.seeds or suite.seeds
    if (num_runs := len(chosen_pairs) * len(chosen_methods) * num_seeds) > MAX_RUNS:
        raise UserError(f"{num_runs:,} runs are planned, at most {MAX_RUNS:,} can be: choose fewer seeds or methods")
    _check_groups(changes, chosen_methods)
    data = data_config({**suite.data, **form.data, **changes.get("data", {})})
    changed = tuple(assignment for assignment in written if not assignment.startswith(_no_changes(data.name)))
    if tuning and not data.val_fraction:
        raise UserError(
            f"data.val_fraction: tuning ranks runs on a validation split, and suite '{suite.name}' has none;"
            " add --set data.val_fraction=0.1"
        )
    runs: dict[tuple[Any, ...], PlannedRun] = {}
    refused: list[Refused] = []
    teachers: dict[str, RunConfig] = {}
    for pair in chosen_pairs:
        for method in chosen_methods:
            for repetition in range(1, num_seeds + 1):
                run = _planned(suite, pair, method, data, form, changes, repetition, tuning)
                if misfit := fit_of(run.config).misfit or _misfit_of_ranks(run.config):
                    refused.append(Refused(pair.name, method, misfit))
                    break
                # methods without a teacher give one run per student, whatever the pair
                teacher = run.config.teacher
                known = runs.setdefault((teacher, pair.student, method, repetition), run)
                if known.config != run.config:
                    raise UserError(
                        f"pairs {known.pair.name} and {pair.name} train {pair.student} by {method} with different"
                        " settings, though it sees no teacher: put them under `students` or `methods` of the suite"
                    )
                if teacher is not None and teacher not in teachers:
                    teachers[teacher] = _teacher(suite, teacher, data, form, changes)
    if not runs:
        raise UserError(f"{refused[0]}; nothing else was chosen")
    return Plan(
        suite,
        profile,
        chosen_pairs,
        chosen_methods,
        num_seeds,
        tuple(runs.values()),
        teachers,
        changed,
        refused=tuple(refused),
    )


_TOP_FIELDS = (
    "convention",
    "precision",
    "teacher_precision",
    "teacher_cache",
    "compile",
    "ranks",
    "sync_batch_norm",
    "eval_every",
    "base_seed",
)


def _no_changes(data: str) -> tuple[str, ...]:
    """Prefixes of assignments that leave a suite as it is: which images, where they are kept, teachers' rounding."""
    options = (*datasets.choices(data), *datasets.PLACES)
    return (*(f"data.{option}=" for option in options), "teacher_precision=", "teacher_cache=")


def _teacher_precision(suite: Suite, device: str) -> Precision:
    """Choose bf16 where students train in it anyway, or where the device computes it fast; else fp32."""
    if suite.precision == "bf16":
        return "bf16"
    return "bf16" if machine.has_fast_bf16(device) else "fp32"


def parse_assignments(assignments: Iterable[str]) -> Settings:
    """Turn `sdd.beta=4` into {"sdd": {"beta": 4}}. Values are read as YAML; a comma makes a list.

    Raises:
        UserError: for text that is not `key=value`.
    """
    settings: Settings = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"--set {shown(assignment)}: write it as group.key=value, e.g. --set sdd.beta=4")
        if fault := unprintable(key):
            raise UserError(f"--set {shown(assignment)}: the key {fault}")
        node = settings
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {assignment}: '{part}' was already set to a value")
        try:
            is_list = "," in text and not text.startswith(("[", "{"))
            node[parts[-1]] = plain_yaml.parse(f"[{text}]" if is_list else text)
        except UserError as error:
            raise UserError(f"--set {shown(assignment)}: the value is {error}") from error
    return settings


def _choose_methods(suite: Suite, chosen: Sequence[str]) -> tuple[str, ...]:
    if not chosen:
        return tuple(suite.methods)
    for name in chosen:
        catalogue.check_method(name)
    return expand(chosen, tuple(suite.methods))


def _choose_pairs(suite: Suite, chosen: Sequence[str]) -> tuple[Pair, ...]:
    known = {pair.name: pair for pair in suite.pairs}
    if not chosen:
        return tuple(known.values())
    pairs = []
    for name in chosen:
        if name in known:
            pairs.append(known[name])
            continue
        teacher, colon, student = name.partition(":")
        if not colon:
            raise UserError(f"pair '{name}': write it as teacher:student{nearest(name, known)}")
        for model in (teacher, student):
            models.registry.get(model)
        pairs.append(Pair(teacher=teacher, student=student))
    return tuple(pairs)


def _check_groups(changes: Settings, methods: Sequence[str]) -> None:
    groups = {group for method in methods for group in distillers.groups(method)}
    allowed = [*_TOP_FIELDS, "recipe", "teacher_recipe", "data", *sorted(groups)]
    for key, value in changes.items():
        if key not in allowed:
            hint = nearest(key, allowed) or ";"
            raise UserError(
                f"--set {key}: unknown key{hint} the chosen methods take {', '.join(allowed)}"
                " (fields: `python -m benchmark show METHOD`)"
            )
        if not isinstance(value, dict):
            raise UserError(f"--set {key}: a group of fields; write --set {key}.FIELD=VALUE")


def _planned(
    suite: Suite,
    pair: Pair,
    method: str,
    data: Data,
    form: Profile,
    changes: Settings,
    repetition: int,
    tuning: bool,
) -> PlannedRun:
    of_method, of_pair = {**suite.methods, **suite.on_request}.get(method, {}), pair.methods.get(method, {})
    recipe = {
        **CONVENTION_RECIPE.get(suite.convention, {}),
        **suite.recipe,
        **suite.students.get(pair.student, {}),
        **of_method.get("recipe", {}),
        **pair.recipe,
        **of_pair.get("recipe", {}),
        **form.recipe,
        **changes.get("recipe", {}),
    }
    parameters = {
        group: {
            **of_method.get(group, {}),
            **pair.parameters.get(group, {}),
            **of_pair.get(group, {}),
            **changes.get(group, {}),
        }
        for group in distillers.groups(method)
    }
    distiller = distillers.create(method, convention=suite.convention, **parameters)
    views.check(method, distiller.views)
    config = RunConfig(
        data=data,
        student=pair.student,
        teacher=pair.teacher if distiller.needs_teacher else None,
        method=method,
        parameters=distiller.parameters(),
        recipe=_recipe(recipe),
        base_seed=suite.base_seed,
        repetition=repetition,
        precision=suite.precision,
        teacher_precision=suite.teacher_precision or "fp32",
        teacher_cache=suite.teacher_cache,
        compile=suite.compile,
        ranks=suite.ranks,
        sync_batch_norm=suite.sync_batch_norm,
        eval_every=suite.eval_every,
        tuning=tuning,
    )
    _check_ranks(config)
    return PlannedRun(config, pair)


def _misfit_of_ranks(config: RunConfig) -> str:
    """Why a method cannot train on as many ranks; "" where it can."""
    if config.ranks > 1 and distillers.registry.get(config.method).remembers_images:
        return f"it remembers every image, of which each of {config.ranks} ranks sees a part"
    return ""


def _teacher(suite: Suite, model: str, data: Data, form: Profile, changes: Settings) -> RunConfig:
    # `--set recipe.*` changes students, `--set teacher_recipe.*` teachers, a profile both
    recipe = {**suite.recipe, **suite.teacher_recipe, **form.recipe, **changes.get("teacher_recipe", {})}
    config = RunConfig(
        data=data,
        student=model,
        teacher=None,
        method="vanilla",
        parameters=distillers.create("vanilla").parameters(),
        recipe=_recipe(recipe),
        base_seed=suite.base_seed,
        repetition=TEACHER_REPETITION,
        precision=suite.precision,
        compile=suite.compile,
        ranks=suite.ranks,
        sync_batch_norm=suite.sync_batch_norm,
        eval_every=suite.eval_every,
    )
    _check_ranks(config)
    return config


def _check_ranks(config: RunConfig) -> None:
    """Raise UserError when several ranks cannot share the batches in equal parts, or are asked for by one."""
    if config.recipe.batch_size % config.ranks:
        raise UserError(
            f"recipe.batch_size: {config.recipe.batch_size} images cannot be shared equally by {config.ranks} ranks;"
            " choose a multiple, or other --gpus"
        )
    if config.sync_batch_norm and config.ranks == 1:
        raise UserError("sync_batch_norm: it is for several ranks; add --gpus 2 or more")


def data_config(fields: Settings) -> Data:
    """Validate data fields; keys that are not fields of `Data` are options of the data set, e.g. `data.path=...`.

    Raises:
        UserError: for an unknown data set or key, and for values out of their range.
    """
    datasets.registry.get(str(fields.get("name")))
    own = {key: value for key, value in fields.items() if key in Data.model_fields}
    options = {key: value for key, value in fields.items() if key not in Data.model_fields}
    known = [*(field for field in Data.model_fields if field != "options"), *datasets.options(str(fields["name"]))]
    for key in options:
        if key not in known:
            raise UserError(f"data.{key}: unknown key{among(key, known)}")
    data = validated(Data, "data", own)
    checked = datasets.checked_options(data.name, {**data.options, **options})
    return data.model_copy(update={"options": checked})


def _recipe(fields: Settings) -> Recipe:
    epochs, milestones = fields.get("epochs"), fields.get("milestones")
    if isinstance(epochs, int) and isinstance(milestones, list | tuple):
        # a shorter training keeps the decays it reaches; milestones that are not numbers are refused below
        fields = {**fields, "milestones": [m for m in milestones if not isinstance(m, int) or m < epochs]}
    return validated(Recipe, "recipe", fields)
