"""The fields of a run, typed and frozen, and its signature."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

import distillers
from benchmark.catalogue import MAX_SEEDS
from benchmark.errors import UserError, among, name_fault, shown, unprintable
from benchmark.randomness import stream_seed
from benchmark.registry import Origin, origin_of

#: increase it whenever a change of the harness changes a run's numbers: it is part of every signature
NUMERICS_VERSION = 2

Precision = Literal["fp32", "bf16"]
#: format that the teacher's outputs for the weak view are rounded to, so that a view cache can hold them
Storage = Literal["none", "fp16", "fp32"]


#: a training is not longer, and its batches are not larger: a typing error would train for years, or fill all memory
Epochs = Annotated[int, Field(ge=1, le=100_000)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
#: processes that train one student together
NumRanks = Annotated[int, Field(ge=1, le=1024)]
#: repetitions of a method
Seeds = Annotated[int, Field(ge=1, le=MAX_SEEDS)]


def _named(name: str) -> str:
    if fault := name_fault(name):
        raise ValueError(f"a name that {fault}")
    return name


def _one_line(text: str) -> str:
    if fault := unprintable(text):
        raise ValueError(f"a text that {fault}")
    return text


#: one line of text, for tables and experiments
Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), AfterValidator(_one_line)]
#: a name that becomes a part of file names, experiments and tables
Name = Annotated[str, AfterValidator(_named)]


class Frozen(BaseModel):
    """A model whose fields cannot change and that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(Frozen):
    """The training recipe of a network: SGD with step decay, as in every published table of this field."""

    epochs: Epochs = 240
    batch_size: BatchSize = 64
    lr: PositiveFloat = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    #: the learning rate is multiplied by `decay` after each of these epochs
    milestones: tuple[Epochs, ...] = (150, 180, 210)
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    #: global gradient norm is clipped at this value; None: no clipping
    clip_norm: PositiveFloat | None = None
    #: drop the last batch of an epoch when it is smaller than batch_size
    drop_last: bool = False

    @model_validator(mode="after")
    def _ascending(self) -> Recipe:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must ascend")
        return self

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1."""
        return self.lr * self.decay ** sum(epoch > milestone for milestone in self.milestones)


class Data(Frozen):
    """The images of a run: data set, subset sizes and validation share."""

    name: str
    #: options of the data set's factory, e.g. {"path": ...} of `folder`
    options: dict[str, Any] = {}
    #: train on a stratified subset of this size (smoke profile); None: all
    num_train: PositiveInt | None = None
    num_test: PositiveInt | None = None
    #: share of the training set held out for tuning: 0 trains on all of it and `val/*` is not measured
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class RunConfig(Frozen):
    """Everything that decides a student's result, resolved. Runs with equal signatures are the same run."""

    data: Data
    student: str
    #: None for methods that need no teacher: the signature of such a run ignores the teacher
    teacher: str | None
    method: str
    #: every hyperparameter by group, resolved from the convention
    parameters: dict[str, dict[str, Any]]
    recipe: Recipe
    base_seed: int = 0
    #: 1, 2, ... for students; 0 for teachers
    repetition: Annotated[int, Field(ge=0)]
    precision: Precision = "fp32"
    #: precision of the teacher's features; its head, and every loss, is fp32
    teacher_precision: Precision = "fp32"
    teacher_cache: Storage = "none"
    compile: bool = False
    #: processes that train together, each on a share of every minibatch (data parallel)
    ranks: NumRanks = 1
    #: batch norms see the images of all ranks, not of one
    sync_batch_norm: bool = False
    #: evaluate after every this many epochs, and always after the last
    eval_every: Epochs = 1
    #: rank the run on the validation split and never evaluate it on the test set
    tuning: bool = False

    @field_validator("tuning")
    @classmethod
    def _has_validation_split(cls, tuning: bool, info: ValidationInfo) -> bool:
        if tuning and "data" in info.data and not info.data["data"].val_fraction:
            raise ValueError("runs are ranked on the validation split: set data.val_fraction above 0")
        return tuning

    @property
    def seed(self) -> int:
        """Seed of every random stream of the run, from base seed, data set and repetition: runs are paired by it."""
        return stream_seed("run", self.base_seed, self.data.name, self.repetition)

    def distiller(self) -> distillers.Distiller:
        """Create the run's distiller."""
        groups: dict[str, Any] = dict(self.parameters)
        return distillers.create(self.method, **groups)

    def origins(self) -> dict[str, Origin]:
        """The plugins that the run depends on, by what it takes from them; empty for a run of the project's own."""
        used = {
            "method": ("distiller", self.method),
            "student": ("model", self.student),
            "data": ("data set", self.data.name),
        }
        if self.teacher is not None:
            used["teacher"] = "model", self.teacher
        used |= {f"view {view}": ("view", view) for view in distillers.registry.get(self.method).views}
        found = {what: origin_of(kind, name) for what, (kind, name) in used.items()}
        return {what: origin for what, origin in found.items() if origin is not None}

    def signature(self, data_digest: str, teacher_checksum: str | None) -> str:
        """Hash every field that affects the result, to 16 hexadecimal digits."""
        fields = self._deciding_fields()
        fields.pop("teacher")
        if self.teacher is None:
            fields |= {"teacher_precision": None, "teacher_cache": None}
        fields |= {"data_digest": data_digest, "teacher_checksum": teacher_checksum if self.teacher else None}
        return _digest(fields)

    @property
    def settings_hash(self) -> str:
        """Hash of the run's settings, to 16 hexadecimal digits: the same for every seed, and on every machine.

        Without what a machine adds of its own: the images, the teacher's weights, and how its outputs are rounded.
        """
        fields = self._deciding_fields()
        for name in ("repetition", "teacher_precision", "teacher_cache"):
            fields.pop(name)
        return _digest(fields)

    def _deciding_fields(self) -> dict[str, Any]:
        """The run's own fields that affect its result, with the versions of harness and method."""
        fields = self.model_dump(mode="json")
        fields["data"].pop("options")  # the digest of the images identifies them
        if not self.tuning:  # signatures from before there was tuning stay valid
            fields.pop("tuning")
        if self.ranks == 1:  # and those from before there were ranks; one rank's batch norms see all images
            fields.pop("ranks")
            fields.pop("sync_batch_norm")
        fields["numerics_version"] = [NUMERICS_VERSION, distillers.registry.get(self.method).numerics_version]
        if origins := self.origins():
            fields["plugins"] = {what: origin.sha256 for what, origin in origins.items()}
        return fields

    @property
    def headline(self) -> str:
        """The split that the run's figures are measured on: `test`, or `val` for a tuning run."""
        return "val" if self.tuning else "test"

    def is_evaluated(self, epoch: int) -> bool:
        """Whether the run is evaluated after this epoch, counted from 1."""
        return epoch % self.eval_every == 0 or epoch == self.recipe.epochs


def numerics_of(method: str) -> str:
    """What of the code decides a method's numbers, `2.3`: the versions of harness and method.

    Followed by the first digits of the checksum of the plugin that the method is from. Runs of different ones are not
    compared with each other.
    """
    origin = origin_of("distiller", method)
    versions = [str(NUMERICS_VERSION), str(distillers.registry.get(method).numerics_version)]
    return ".".join([*versions, *([] if origin is None else [origin.sha256[:12]])])


def _digest(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


F = TypeVar("F", bound=Frozen)


def validated(model: type[F], path: str, fields: dict[str, Any]) -> F:
    """Validate the fields as a model. Raises UserError that names the first wrong field."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise UserError(explain(error, model, path)) from error


def explain(error: ValidationError, model: type[Frozen], path: str = "") -> str:
    """Describe the first problem of a validation in one line: the field's path, the rule and the given value."""
    first = error.errors()[0]
    where = ".".join([*([path] if path else []), *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{among(str(first['loc'][-1]), model.model_fields)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ').lower()} (got {shown(first['input'])})"
