"""Whether a method can run on two networks, and how many parameters it adds to the student."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import torch

import distillers
import models
from benchmark.config import RunConfig
from benchmark.errors import UserError
from distillers.base import Facts, UnfitPair

#: images, classes and batch that the networks are made for here: how stages fit together does not depend on them
SIDE, CLASSES, BATCH = 32, 10, 64


class Fit(NamedTuple):
    """How a method fits two networks."""

    #: why it cannot run on them; "" where it can
    misfit: str = ""
    #: parameters beside the student's own that are trained with it
    num_trained: int = 0
    #: parameters beside the student's own that it is tested with
    num_tested: int = 0


def fit_of(config: RunConfig) -> Fit:
    """Find out whether a run's method fits its networks, and what it adds; nothing is made for methods on logits."""
    if config.teacher is None or not distillers.registry.get(config.method).needs_networks():
        return Fit()
    return _fit(config.method, json.dumps(config.parameters, sort_keys=True), config.student, config.teacher)


@cache
def _fit(method: str, parameters: str, student: str, teacher: str) -> Fit:
    distiller = distillers.create(method, **json.loads(parameters))
    facts = Facts(CLASSES, SIDE, torch.arange(8 * CLASSES) % CLASSES, BATCH)
    try:
        with torch.random.fork_rng(devices=[]):
            networks = _network(student), _network(teacher)
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
def _network(name: str) -> models.Network:
    return models.create(name, CLASSES, SIDE).eval()
