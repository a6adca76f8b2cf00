"""The short way to a distiller on feature maps: hyperparameters, one scalar loss, one decorator.

    @feature_loss("mine", title="Mine")
    class Mine(FeatureLoss):
        weight: NonNegative = 100.0

        def loss(self, student, teacher, target_B, extras):
            return ...  # a scalar, of student.features and teacher.features

registers `mine`, with cross-entropy, weights and warm-up in place. Connectors between the networks are made by
`modules`, and found in `extras.modules`.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, cross_entropy

from distillers.base import (
    NO_EXTRAS,
    Distiller,
    Epochs,
    Extras,
    Facts,
    NonNegative,
    Outputs,
    Parameters,
    Positive,
    Sees,
    UnfitPair,
    Views,
    detached,
    register,
    upcast,
    warmup,
)
from distillers.kd import kd
from distillers.network import Network, Stages


class FeatureLoss(Parameters):
    """Hyperparameters of a loss on feature maps."""

    #: weight of the cross-entropy with the labels
    ce_weight: NonNegative = 1.0
    #: weight of the loss on features
    weight: NonNegative = 1.0
    #: weight of KD beside it, and its temperature; most methods are published without
    kd_weight: NonNegative = 0.0
    temperature: Positive = 4.0
    #: the loss on features is scaled by min(epoch / warmup_epochs, 1); 0 is no warm-up
    warmup_epochs: Epochs = 0

    #: what the loss looks at
    sees: ClassVar[Sees] = "stages"
    couples_batch: ClassVar[bool] = False
    remembers_images: ClassVar[bool] = False
    is_tested_with_modules: ClassVar[bool] = False

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        """Compute the loss on features, a scalar, before weight and warm-up; the teacher's are without gradient."""

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        """Make the side modules, as `Distiller.modules` says."""
        return None

    def tested_logits(self, student: Outputs, extras: Extras) -> Tensor:
        """Compute the logits that the student is tested by, as `Distiller.tested_logits` says."""
        return student.logits


class FeatureDistiller(Distiller):
    """ce_weight * CE + weight * warm-up * the loss on features + kd_weight * T^2 KL; all in fp32 at least."""

    #: the namespace of the loss's hyperparameters
    group: ClassVar[str]

    def __init__(self, **values: Parameters) -> None:
        super().__init__(**values)
        self.loss = cast(FeatureLoss, values[self.group])

    def losses(
        self,
        student: Views,
        teacher: Views,
        target_B: Tensor,
        epoch: int | Tensor,
        extras: Extras = NO_EXTRAS,
    ) -> dict[str, Tensor]:
        p = self.loss
        with torch.autocast(target_B.device.type, enabled=False):
            s, t = upcast(student)["weak"], detached(upcast(teacher))["weak"]
            terms = {"ce": p.ce_weight * cross_entropy(s.logits, target_B)}
            if p.kd_weight:
                terms["kd"] = p.kd_weight * kd(s.logits, t.logits, p.temperature).mean()
            weight = p.weight * warmup(epoch, p.warmup_epochs)
            return terms | {"feature": weight * p.loss(s, t, target_B, extras._replace(epoch=epoch))}

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        if self.sees == "stages":  # refused for networks without, whether or not the loss makes modules
            probe(student, facts.image_size), probe(teacher, facts.image_size)
        return self.loss.modules(student, teacher, facts)

    def tested_logits(self, student: Outputs, extras: Extras) -> Tensor:
        return self.loss.tested_logits(student, extras)


L = TypeVar("L", bound=FeatureLoss)


def feature_loss(name: str, title: str, *, numerics_version: int = 1) -> Callable[[type[L]], type[L]]:
    """Decorator: register a loss on features as the distiller `name`, whose gain is over the student alone.

    Raise `numerics_version` whenever a change makes the losses differ. Raises ValueError when the name is taken.
    """

    def add(loss: type[L]) -> type[L]:
        body = {
            "__doc__": loss.__doc__,
            "__module__": loss.__module__,
            "name": name,
            "title": title,
            "group": name,
            "groups": {name: loss},
            "numerics_version": numerics_version,
            "sees": loss.sees,
            "couples_batch": loss.couples_batch,
            "remembers_images": loss.remembers_images,
            "is_tested_with_modules": loss.is_tested_with_modules,
        }
        register(type(f"{loss.__name__}Distiller", (FeatureDistiller,), body))
        return loss

    return add


class Norm(nn.BatchNorm2d):
    """A batch norm that uses its running statistics where a batch has one value per channel, which has no variance."""

    def forward(self, map_BDHW: Tensor) -> Tensor:
        if self.training and map_BDHW.numel() == map_BDHW.shape[1]:
            return batch_norm(map_BDHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(map_BDHW)


def features_of(outputs: Outputs) -> tuple[Tensor, ...]:
    """Maps after every stage. Raises ValueError when the distiller did not ask for them."""
    return _features(outputs).maps


def pre_activations_of(outputs: Outputs) -> tuple[Tensor, ...]:
    """The same before the last activation; () for a network whose stages end without one."""
    return _features(outputs).pre_activations


def last_map_of(outputs: Outputs) -> Tensor:
    """The last feature map, (B, D, H, W), which the head classifies."""
    return _features(outputs).map


def embedding_of(outputs: Outputs) -> Tensor:
    """The mean of the last feature map, (B, D). Raises ValueError when the distiller did not ask for it."""
    return _features(outputs).embedding


def _features(outputs: Outputs) -> Stages:
    if outputs.features is None:
        raise ValueError("no feature maps: the distiller does not ask for them")
    return outputs.features


def same_side(a_BDHW: Tensor, b_BDHW: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the side of the smaller."""
    side = min(a_BDHW.shape[2], b_BDHW.shape[2])
    a, b = (x if x.shape[2] == side else adaptive_avg_pool2d(x, (side, side)) for x in (a_BDHW, b_BDHW))
    return a, b


def paired_stages(student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Pair the maps of stages from the front, the larger of each pooled to the side of the smaller.

    What one network has more of is left out.
    """
    return [same_side(*pair) for pair in zip(features_of(student), features_of(teacher), strict=False)]


def stage_shapes(network: Network, image_size: int) -> list[tuple[int, int]]:
    """(channels, side) of the maps after every stage, found without computing anything.

    Raises UnfitPair for a network without published stages.
    """
    return [(x.shape[1], x.shape[2]) for x in probe(network, image_size).maps]


def shapes_only(network: Network) -> Network:
    """Copy a network as one that computes no values: only the shapes of its maps, for tensors on `meta`.

    Batch norms, which change no shape, are left out: there they take most of the time.
    """
    meta = copy.deepcopy(network).to("meta").eval()
    for module in meta.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = _as_it_is  # type: ignore[method-assign]
    return meta


def _as_it_is(input: Tensor) -> Tensor:
    return input


T = TypeVar("T")


def _once_per_network(find: Callable[[Network, int], T]) -> Callable[[Network, int], T]:
    """Remember what is found of a network and a side of images, as long as the network lives: shapes do not change.

    A plan asks for every method and pair, and a copy of a network takes a quarter of a second.
    """
    known: WeakKeyDictionary[Network, dict[int, T]] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(network: Network, image_size: int) -> T:
        of_network = known.setdefault(network, {})
        if image_size not in of_network:
            of_network[image_size] = find(network, image_size)
        return of_network[image_size]

    return found


@_once_per_network
def map_shape(network: Network, image_size: int) -> tuple[int, int]:
    """(channels, side) of the last feature map, found without computing anything."""
    meta = shapes_only(network)
    _, channels, side, _ = meta.forward_features(torch.empty(1, 3, image_size, image_size, device="meta")).shape
    return channels, side


def embedding_size(network: Network, image_size: int) -> int:
    """Number of channels of the last feature map."""
    return map_shape(network, image_size)[0]


@_once_per_network
def probe(network: Network, image_size: int) -> Stages:
    """Run a copy of a network without computing anything, for the shapes of its stages.

    Raises UnfitPair for a network without published stages.
    """
    meta = shapes_only(network)
    try:
        return meta.forward_stages(torch.empty(1, 3, image_size, image_size, device="meta"))
    except NotImplementedError as error:
        raise UnfitPair(f"{error}: feature methods are published for the networks of the CIFAR tables") from error


def linear_head_of(network: Network) -> nn.Linear:
    """The linear layer that is a network's head. Raises UnfitPair when its head is not one layer."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            pooled = torch.linspace(-1, 1, module.in_features, dtype=module.weight.dtype)[None]
            try:
                if torch.equal(network.classify(pooled), module(pooled)):
                    return module
            except RuntimeError:  # of another width
                continue
    raise UnfitPair(f"the teacher's head is reused, and that of {type(network).__name__} is no single linear layer")
