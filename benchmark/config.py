"""The fields of a run, typed and frozen, and its signature."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

import distillers
from benchmark.errors import UserError, among
from benchmark.randomness import stream_seed

#: raise it whenever a change of the harness makes a run's numbers differ: part of every signature
NUMERICS_VERSION = 2

Precision = Literal["fp32", "bf16"]
#: what the teacher's outputs of the weak view are rounded to, so that they can be kept in a view cache
Storage = Literal["none", "fp16", "fp32"]


class Frozen(BaseModel):
    """Fields that cannot change, with unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(Frozen):
    """How a network is trained: SGD with step decay, as every published table of this field."""

    epochs: PositiveInt = 240
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    #: the learning rate is multiplied by `decay` after each of these epochs
    milestones: tuple[PositiveInt, ...] = (150, 180, 210)
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
        """Return the learning rate of an epoch, counted from 1."""
        return self.lr * self.decay ** sum(epoch > milestone for milestone in self.milestones)


class Data(Frozen):
    """Which images a run sees."""

    name: str
    #: options of the data set's factory, e.g. {"path": ...} of `folder`
    options: dict[str, Any] = {}
    #: train on a stratified subset of this size (smoke profile); None: all
    num_train: PositiveInt | None = None
    num_test: PositiveInt | None = None
    #: share of the training set held out for tuning: 0 trains on all of it and `val/*` is not measured
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class RunConfig(Frozen):
    """Everything that decides one student's result, resolved. Two runs of equal signature are the same run."""

    data: Data
    student: str
    #: None for methods that never look at one: such a run's signature ignores the teacher
    teacher: str | None
    method: str
    #: every hyperparameter by group, resolved from the convention
    parameters: dict[str, dict[str, Any]]
    recipe: Recipe
    base_seed: int = 0
    #: 1, 2, ... for students; 0 is the teachers' own
    repetition: Annotated[int, Field(ge=0)]
    precision: Precision = "fp32"
    #: of the teacher's features; its head, and every loss, is fp32
    teacher_precision: Precision = "fp32"
    teacher_cache: Storage = "none"
    compile: bool = False
    #: evaluate after every so many epochs, and always after the last
    eval_every: PositiveInt = 1
    #: ranked on the validation split: the test set is never looked at
    tuning: bool = False

    @field_validator("tuning")
    @classmethod
    def _has_validation_split(cls, tuning: bool, info: ValidationInfo) -> bool:
        if tuning and "data" in info.data and not info.data["data"].val_fraction:
            raise ValueError("runs are ranked on the validation split: set data.val_fraction above 0")
        return tuning

    @property
    def seed(self) -> int:
        """Seed of every random stream of the run: of (base seed, data set, repetition), so that runs are paired."""
        return stream_seed("run", self.base_seed, self.data.name, self.repetition)

    def distiller(self) -> distillers.Distiller:
        """Return the run's distiller."""
        groups: dict[str, Any] = dict(self.parameters)
        return distillers.create(self.method, **groups)

    def signature(self, data_digest: str, teacher_checksum: str | None) -> str:
        """Return the hash of every field that affects the result, 16 hexadecimal digits."""
        fields = self.model_dump(mode="json")
        fields["data"].pop("options")  # the digest says which images they are
        fields.pop("teacher")
        if not self.tuning:  # such runs are what they were before there was tuning, and so are their signatures
            fields.pop("tuning")
        if self.teacher is None:
            fields |= {"teacher_precision": None, "teacher_cache": None}
        fields |= {
            "data_digest": data_digest,
            "teacher_checksum": teacher_checksum if self.teacher else None,
            "numerics_version": [NUMERICS_VERSION, distillers.registry.get(self.method).numerics_version],
        }
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def headline(self) -> str:
        """The split that the run's figures come from: `test`, or `val` for a tuning run."""
        return "val" if self.tuning else "test"

    def is_evaluated(self, epoch: int) -> bool:
        """Whether the run is evaluated after this epoch, counted from 1."""
        return epoch % self.eval_every == 0 or epoch == self.recipe.epochs


F = TypeVar("F", bound=Frozen)


def validated(model: type[F], path: str, fields: dict[str, Any]) -> F:
    """Return the fields as a model. Raises UserError with the first field that is wrong."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise UserError(explain(error, model, path)) from error


def explain(error: ValidationError, model: type[Frozen], path: str = "") -> str:
    """Return the first problem of a validation in one line: the field's path, what is allowed, what was given."""
    first = error.errors()[0]
    where = ".".join([*([path] if path else []), *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{among(str(first['loc'][-1]), model.model_fields)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ').lower()} (got {first['input']!r})"
