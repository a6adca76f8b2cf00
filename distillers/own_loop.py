"""A method as one callable, for any training loop: `loss = distillers.loss("sdd_kd", scales=(1, 2, 4))`.

Shape letters: B batch, K classes, R regions, D channels, H W map height and width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from distillers.base import Distiller, Outputs, Views, registry
from distillers.network import Network
from distillers.regions import with_regions

#: turns pooled features, (..., D), into logits, (..., K)
Head = nn.Linear | Network | Callable[[Tensor], Tensor]
#: what a network says about one view of the batch: its logits, (B, K), or its feature map, (B, D, H, W), with its head
Seen = Tensor | tuple[Tensor, Head]
#: for a method of several views, such as `weak` and `strong` of MLKD: what it says about each
SeenViews = Seen | Mapping[str, Seen]

#: an epoch that lies behind every warm-up
AFTER_WARMUP = 100_000


class Loss:
    """A method's training loss: `loss(student, teacher, target, epoch=epoch)` is a scalar to call `backward()` on.

    `student` and `teacher` are logits, (B, K), where the method needs no more. A scale-decoupled form classifies
    regions: it takes `(feature map, head)`, where the head is the `nn.Linear` that follows the average pool, a network
    of `distillers.adapt`, or any function from (..., D) to (..., K). A method of several views takes a dictionary of
    either by view, `{"weak": ..., "strong": ...}`. The cross-entropy with `target`, class indices (B,), is included.
    `epoch` counts from 1 and serves the warm-up; without it there is none. A method whose loss changes later needs it.
    """

    def __init__(self, distiller: Distiller) -> None:
        """Take a method. Raises UserError for one whose loss is more than a function of logits."""
        if distiller.needs_networks():
            raise UserError(
                f"{distiller.name} looks at both networks' feature maps or trains modules beside the student, which a"
                " loss of outputs cannot: train it with `python -m benchmark.run`"
            )
        #: the method with its resolved hyperparameters
        self.distiller = distiller
        self._has_warned = False

    def __call__(
        self, student: SeenViews, teacher: SeenViews | None, target: Tensor, *, epoch: int | None = None
    ) -> Tensor:
        """Compute the loss, a scalar: the sum of `terms`."""
        return torch.stack(list(self.terms(student, teacher, target, epoch=epoch).values())).sum()

    def terms(
        self, student: SeenViews, teacher: SeenViews | None, target: Tensor, *, epoch: int | None = None
    ) -> dict[str, Tensor]:
        """Compute the named scalars whose sum is the loss, such as `ce` and `kd`.

        Raises UserError that names what is missing, such as the feature map of a scale-decoupled form, and for an epoch
        below 1.
        """
        seen = self._outputs("student", student)
        shown: Views = {}
        if self.distiller.needs_teacher:
            if teacher is None:
                raise UserError(f"{self.distiller.name} learns from a teacher: give what it says about the batch")
            with torch.no_grad():
                shown = self._outputs("teacher", teacher)
        _check_shapes(seen, shown, target)
        return self.distiller.losses(seen, shown, target, self._epoch(epoch))

    def __repr__(self) -> str:
        groups = self.distiller.parameters().items()
        values = [f"{group}.{field}={value!r}" for group, fields in groups for field, value in fields.items()]
        return f"Loss({', '.join([self.distiller.name, *values])})"

    def _outputs(self, whose: str, given: SeenViews) -> dict[str, Outputs]:
        name, views = self.distiller.name, self.distiller.views
        by_view = given if isinstance(given, Mapping) else {"weak": given}
        if missing := [view for view in views if view not in by_view]:
            example = ", ".join(f'"{view}": ...' for view in views)
            raise UserError(
                f"{name} looks at {len(views)} view{'s' if len(views) > 1 else ''} of the batch, {', '.join(views)}:"
                f" the {whose}'s '{missing[0]}' is missing; give {{{example}}} for the student and for the teacher"
            )
        return {view: self._outputs_of_view(whose, by_view[view]) for view in views}

    def _outputs_of_view(self, whose: str, seen: Seen) -> Outputs:
        scales = self.distiller.scales
        if isinstance(seen, Tensor):
            if scales:
                raise UserError(
                    f"{self.distiller.name} classifies regions of the image, and logits alone have none: give the"
                    f" {whose}'s feature map before pooling and its head, (map, head), or take"
                    f" '{self.distiller.base}', which needs logits only"
                )
            return Outputs(seen, seen.new_empty(len(seen), 0, seen.shape[-1]))
        map_BDHW, head = seen
        if map_BDHW.dim() != 4:
            raise UserError(
                f"the {whose}'s feature map has shape {tuple(map_BDHW.shape)}, it must be (B, D, H, W): the last one"
                " before the average pool"
            )
        if isinstance(head, nn.Linear) and head.in_features != map_BDHW.shape[1]:
            raise UserError(
                f"the {whose}'s head takes {head.in_features} channels and its feature map has {map_BDHW.shape[1]}:"
                " give the map that the average pool before the head takes"
            )
        classify = head.classify if isinstance(head, Network) else head
        is_affine = head.linear_head if isinstance(head, Network) else isinstance(head, nn.Linear)
        logits_BK = classify(map_BDHW.mean(dim=(2, 3)))
        found = with_regions(logits_BK, map_BDHW, classify, is_affine, scales, self.distiller.grids)
        if found.logits.dim() != 2 or found.regions.dim() != 3:
            raise UserError(
                f"the {whose}'s head must turn (..., {map_BDHW.shape[1]}) into (..., K) with any leading"
                f" axes; it made {tuple(found.logits.shape)} and {tuple(found.regions.shape)}"
            )
        return found

    def _epoch(self, epoch: int | None) -> int:
        if epoch is not None:
            if epoch < 1:
                raise UserError(f"epoch counts from 1: {epoch} is before the first one")
            return epoch
        if self.distiller.needs_epoch:
            raise UserError(f"{self.distiller.name} changes its loss in the course of training: give epoch=1, 2, ...")
        lasts = [getattr(values, "warmup_epochs", 0) for values in self.distiller.values.values()]
        if max(lasts, default=0) and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self.distiller.name} warms up over {max(lasts)} epochs: give epoch=1, 2, ... to the loss;"
                " without it there is no warm-up, which warmup_epochs=0 says",
                stacklevel=4,
            )
        return AFTER_WARMUP


def by_group(name: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort plain hyperparameters of a method into its groups; values that are a group's already stay so.

    Raises UserError for a name that no group has, or more than one.
    """
    groups = registry.get(name).groups
    sorted_in: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        if key in groups:
            if not isinstance(value, Mapping):
                raise UserError(f"{key}: a group of {name}; give its fields by name, {key}={{...}}")
            fields = dict(value)
        else:
            fields = {key: value}
        owners = [key] if key in groups else [group for group in groups if key in groups[group].model_fields]
        if not owners:
            known = sorted({field for parameters in groups.values() for field in parameters.model_fields})
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"{key}: no hyperparameter of {name}{nearest(key, [*known, *groups]) or ';'} {has}")
        if len(owners) > 1:
            either = " or ".join(f'{owner}={{"{key}": ...}}' for owner in owners)
            raise UserError(f"{key}: {' and '.join(owners)} of {name} both have it; give {either}")
        group = sorted_in.setdefault(owners[0], {})
        if twice := group.keys() & fields.keys():
            raise UserError(f"{owners[0]}.{min(twice)}: given twice")
        group |= fields
    return sorted_in


def _check_shapes(student: Views, teacher: Views, target_B: Tensor) -> None:
    """Raise UserError unless both networks and the target speak of the same batch and classes."""
    logits_BK = student["weak"].logits
    if logits_BK.dim() != 2:
        raise UserError(f"the student's logits have shape {tuple(logits_BK.shape)}, they must be (B, K)")
    if target_B.shape != logits_BK.shape[:1] or target_B.is_floating_point():
        raise UserError(
            f"target: must be class indices of shape ({len(logits_BK)},), got {target_B.dtype} of shape"
            f" {tuple(target_B.shape)}"
        )
    for whose, views in {"student": student, "teacher": teacher}.items():
        for view, seen in views.items():
            if seen.logits.shape != logits_BK.shape:
                raise UserError(
                    f"the {whose}'s logits of the view '{view}' have shape {tuple(seen.logits.shape)}, the student's"
                    f" have {tuple(logits_BK.shape)}: both networks must see the same batch and the same classes"
                )
