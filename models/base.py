"""The registry of networks, and the interface that each has."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.registry import Registry
from distillers.network import Network, Stages

__all__ = ["Network", "NetworkFactory", "Stages", "registry"]

#: makes a network: (num_classes, image_size) -> Network
NetworkFactory = Callable[[int, int], Network]

registry: Registry[NetworkFactory] = Registry("model")
