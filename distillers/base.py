"""The distiller interface: hyperparameters, and named scalar losses computed from two networks' outputs.

Shape letters: B batch, K classes, R regions, N any number of logit rows (B, or B * R).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_origin

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn

from benchmark.registry import Registry
from distillers.network import Network, Stages

Grids = Literal["map", "from_4x4"]
Convention = Literal["code", "paper"]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]

#: a loss per sample: (student_NK, teacher_NK, target_N) -> (N,)
PerSample = Callable[[Tensor, Tensor, Tensor], Tensor]


class Outputs(NamedTuple):
    """A network's outputs for one view of the batch, as a distiller sees them."""

    #: (B, K): the network's own logits
    logits: Tensor
    #: (B, R, K): local logits, scale by scale, row-major inside a scale; R = 0 without scales
    regions: Tensor
    #: feature maps, for a distiller that `sees` them; else None
    features: Stages | None = None
    #: the network's head, (..., D) -> (..., K), for a distiller that `sees` feature maps; else None
    head: Callable[[Tensor], Tensor] | None = None

    def map_all(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """Apply a function to every tensor."""
        features = None if self.features is None else self.features.map_all(change)
        return Outputs(change(self.logits), change(self.regions), features, self.head)


Views = Mapping[str, Outputs]

#: what a distiller looks at: logits only, the last feature map as well, or the maps after every stage too
Sees = Literal["logits", "map", "stages"]


class Facts(NamedTuple):
    """Facts about a training that side modules may depend on."""

    num_classes: int
    #: side of the images that the networks see, in pixels
    image_size: int
    #: (N,) int64, on the CPU: class of every image of the training set, which `Extras.index_B` counts from 0; -1 for
    #: images that are not trained on, outside of a subset or in the validation split
    targets_N: Tensor
    #: number of images in a batch; the last one of an epoch may have fewer
    batch_size: int

    @property
    def num_images(self) -> int:
        """Number of images in the training set, those that are not trained on included."""
        return len(self.targets_N)


class Extras(NamedTuple):
    """What some distillers need beside two networks' outputs."""

    #: the side modules that `Distiller.modules` made for this student
    modules: nn.Module | None = None
    #: (B,) int64: number of each image of the batch in the training set
    index_B: Tensor | None = None
    #: the epoch, from 1, for losses on features that draw anew in every epoch
    epoch: int | Tensor = 0


NO_EXTRAS = Extras()


class UnfitPair(Exception):
    """A method cannot run on two networks; the message says why."""


#: types of values that pydantic would refuse without a type
_UNTYPED = (bool, int, float, str, tuple, list, dict)


class Parameters(BaseModel):
    """One named group of hyperparameters: typed, ranged, frozen, unknown keys refused."""

    # an untyped value is left to `__init_subclass__`: pydantic's own refusal does not say which type to write
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ignored_types=_UNTYPED)

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a hyperparameter without a type."""
        super().__init_subclass__(**options)
        typed = inspect.get_annotations(cls)
        for name, value in vars(cls).items():
            if not name.startswith("_") and name not in {*typed, "model_config"} and isinstance(value, _UNTYPED):
                raise TypeError(f"{cls.__name__}.{name}: {_way_out(name, value)}")

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept `1,2,4` for a sequence; refuse a truth value where pydantic would take it for a number."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("cannot be true or false")
        if get_origin(annotation) is tuple and isinstance(value, str | int | float):
            return [part for part in str(value).strip("()[] ").split(",") if part.strip()]
        return value


class Distiller(ABC):
    """Hyperparameters only: no device, no optimiser, no loader, no tracking."""

    #: registry key
    name: ClassVar[str]
    #: printed name, as in the papers
    title: ClassVar[str]
    #: registry key of the method that its gain is measured against, or None
    base: ClassVar[str | None] = None
    #: False when the method never looks at a teacher
    needs_teacher: ClassVar[bool] = True
    #: part of every run's signature; raise it whenever a change makes the losses differ
    numerics_version: ClassVar[int] = 1
    #: parameter groups by namespace, e.g. {"dkd": DKD}; the group names are the namespaces of `--set dkd.beta=8`
    groups: ClassVar[Mapping[str, type[Parameters]]] = {}
    #: values of group fields by `Convention`, which the user's values override: {"code": {"sdd": {"beta": 2}}}
    conventions: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}

    #: sides of the region grids wanted from both networks, ascending; empty when only whole-image logits are used
    scales: tuple[int, ...] = ()
    #: how coarse cells are pooled
    grids: Grids = "map"
    #: what it looks at in both networks beside logits and regions
    sees: ClassVar[Sees] = "logits"
    #: whether a loss changes with the epoch beyond a warm-up, so that without one it would be another
    needs_epoch: ClassVar[bool] = False
    #: whether side modules remember images from step to step, of which each of several ranks would see a part only
    remembers_images: ClassVar[bool] = False
    #: whether the student is tested by `tested_logits`, with its side modules, instead of by its own head
    is_tested_with_modules: ClassVar[bool] = False
    #: whether a term compares the images of a batch with each other: it then sees what one of several ranks has of it
    couples_batch: bool = False
    #: views of the batch that student and teacher see, in the order of the student's forwards: `weak`, and any other
    #: that `python -m benchmark list views` names
    views: tuple[str, ...] = ("weak",)

    def __init__(self, **values: Parameters) -> None:
        """Take one validated `Parameters` per group; `distillers.create` makes them from plain values."""
        self.values = values

    @classmethod
    def needs_networks(cls) -> bool:
        """Whether the losses are more than a function of logits: they see feature maps, or have side modules."""
        return cls.sees != "logits" or cls.modules is not Distiller.modules

    @abstractmethod
    def losses(
        self,
        student: Views,
        teacher: Views,
        target_B: Tensor,
        epoch: int | Tensor,
        extras: Extras = NO_EXTRAS,
    ) -> dict[str, Tensor]:
        """Compute named scalar terms, whose sum is the training loss. `epoch` counts from 1."""

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        """Make what is trained, or remembered, beside the student: connectors, memories, a temperature; or None.

        Its parameters are trained with the student's, its buffers are saved with them, and none of it is part of the
        trained student. Random numbers come from torch's global generator. Both networks are on the CPU and as they
        are before training, the teacher's batch norms included; they must not be changed.

        Raises:
            UnfitPair: when the method cannot run on these networks.
        """
        return None

    def tested_logits(self, student: Outputs, extras: Extras) -> Tensor:
        """Compute the logits that a student with `is_tested_with_modules` is tested by, (B, K)."""
        return student.logits

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Every resolved hyperparameter by group, JSON-ready, as a run records and signs them."""
        return {group: values.model_dump(mode="json") for group, values in self.values.items()}

    def diagnostics(self, student: Views, teacher: Views, target_B: Tensor) -> dict[str, Tensor]:
        """Compute named scalars to track that are not part of the loss, e.g. the fraction of complementary regions."""
        return {}


class LogitDistiller(Distiller):
    """A distiller that looks at logits only; its per-sample terms pass through `instance`, the others do not.

    `instance` is the seam for modifiers: scale decoupling overrides it and leaves the other terms as they are.
    """

    @abstractmethod
    def terms(self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor) -> dict[str, Tensor]:
        """Compute the named scalar losses; logits arrive in fp32 at least, the teacher's without gradient."""

    def terms_with(
        self, student: Views, teacher: Views, target_B: Tensor, epoch: int | Tensor, extras: Extras
    ) -> dict[str, Tensor]:
        """Compute the named scalar losses of a method that has side modules: here `terms`, without them."""
        return self.terms(student, teacher, target_B, epoch)

    def losses(
        self,
        student: Views,
        teacher: Views,
        target_B: Tensor,
        epoch: int | Tensor,
        extras: Extras = NO_EXTRAS,
    ) -> dict[str, Tensor]:
        # upcasting is not enough: autocast would compute matrix products of fp32 probabilities in bf16 again
        with torch.autocast(target_B.device.type, enabled=False):
            return self.terms_with(upcast(student), detached(upcast(teacher)), target_B, epoch, extras)

    def instance(self, loss: PerSample, student: Outputs, teacher: Outputs, target_B: Tensor) -> Tensor:
        """Compute the loss of every sample of one view, (B,): here on the whole image.

        Raises ValueError when the loss is not one per row: a mean would be weighted as if it were a sample.
        """
        loss_N, rows = loss(student.logits, teacher.logits, target_B), len(target_B)
        if loss_N.shape != (rows,):
            shape = tuple(loss_N.shape)
            raise ValueError(
                f"{self.name}: per_sample returned shape {shape}, expected ({rows},): one loss per row, no mean"
            )
        return loss_N


def _way_out(name: str, value: object) -> str:
    """Say what to write in place of an untyped hyperparameter."""
    if name in Distiller.__annotations__:
        return "belongs to a distiller, not to its hyperparameters: derive from LogitDistiller to set it"
    known = {bool: "bool", int: "Positive", float: "Positive", str: "str", tuple: "tuple[float, ...]"}
    return f"give it a type, e.g. `{name}: {known.get(type(value), 'list[float]')} = {value!r}`"


registry: Registry[type[Distiller]] = Registry("distiller", "methods")


def register(distiller: type[Distiller]) -> None:
    """Register a distiller class under its name. Raises ValueError when the name is taken."""
    registry.add(distiller.name, distiller)


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert half precisions to float32; float32 and float64 pass unchanged."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def upcast(views: Views) -> Views:
    """Convert all outputs to float32 at least."""
    return {view: seen.map_all(at_least_fp32) for view, seen in views.items()}


def detached(views: Views) -> Views:
    """Cut all outputs from what computed them."""
    return {view: seen.map_all(Tensor.detach) for view, seen in views.items()}


def warmup(epoch: int | Tensor, warmup_epochs: float) -> float | Tensor:
    """Linear warm-up factor min(epoch / warmup_epochs, 1), epoch from 1; 1 without warm-up."""
    if warmup_epochs == 0:
        return 1.0
    if isinstance(epoch, Tensor):
        return torch.clamp(epoch / warmup_epochs, max=1.0)
    return min(epoch / warmup_epochs, 1.0)
