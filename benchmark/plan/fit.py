"""Whether a method can run on two networks, and how many parameters it adds to the student."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import torch

import distillers
import models
from benchmark import datasets
from benchmark.config import RunConfig
from benchmark.datasets.base import Known
from benchmark.errors import UserError
from distillers.base import Facts, UnfitPair

#: classes that heads are made for where their number is not known: fit does not depend on it
CLASSES = 10


class Fit(NamedTuple):
    """How a method fits two networks."""

    #: why it cannot run on them; "" where it can
    misfit: str = ""
    #: parameters beside the student's own that are trained with it
    num_trained: int = 0
    #: parameters beside the student's own that it is tested with
    num_tested: int = 0


def fit_of(config: RunConfig, seen: Known | None = None) -> Fit:
    """Find out whether a run's method fits its networks, and what it adds; nothing is made for methods on logits.

    On images of the size that networks see (`seen`; default: what is known of the data set before it is read), since
    strides of some networks depend on it: of a size that is not known, nothing is said.
    """
    if config.teacher is None or not distillers.registry.get(config.method).needs_networks():
        return Fit()
    image_size, num_classes = seen or datasets.known(config.data)
    if image_size is None:
        return Fit()
    parameters = json.dumps(config.parameters, sort_keys=True)
    batch_size = config.recipe.batch_size // config.ranks
    return _fit(
        config.method, parameters, config.student, config.teacher, image_size, num_classes or CLASSES, batch_size
    )


@cache
def _fit(
    method: str, parameters: str, student: str, teacher: str, image_size: int, num_classes: int, batch_size: int
) -> Fit:
    distiller = distillers.create(method, **json.loads(parameters))
    facts = Facts(num_classes, image_size, torch.arange(8 * num_classes) % num_classes, batch_size)
    try:
        with torch.random.fork_rng(devices=[]):
            networks = _network(student, num_classes, image_size), _network(teacher, num_classes, image_size)
            modules = distiller.modules(*networks, facts)
    except UnfitPair as reason:
        return Fit(str(reason))
    except UserError:  # a network that needs larger images: whether the method fits is seen when it is trained
        return Fit()
    if modules is None:
        return Fit()
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in modules.parameters()]
    tested = sum(size for size, _ in sizes) if distiller.is_tested_with_modules else 0
    return Fit("", sum(size for size, is_trained in sizes if is_trained), tested)


@cache
def _network(name: str, num_classes: int, image_size: int) -> models.Network:
    return models.create(name, num_classes, image_size).eval()
