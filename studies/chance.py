"""The accuracy that guessing reaches, and what cannot be told from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: standard errors above chance that one guess in a hundred passes
_ONE_IN_100 = 2.33


@dataclass(frozen=True)
class Chance:
    """Guessing one of `num_classes` classes, measured on `num_images` images."""

    num_classes: int
    num_images: int

    @property
    def percent(self) -> float:
        """Expected accuracy, percent."""
        return 100 / self.num_classes

    @property
    def level(self) -> float:
        """Accuracy that only one guess in a hundred passes on so many images, percent."""
        share = 1 / self.num_classes
        return self.percent + _ONE_IN_100 * 100 * math.sqrt(share * (1 - share) / max(1, self.num_images))

    def covers(self, value: float) -> bool:
        """Whether an accuracy in percent cannot be told from guessing."""
        return value <= self.level

    @property
    def words(self) -> str:
        """Chance and its level, for a sentence."""
        return f"{self.percent:.2f}%, on {self.num_images:,} images up to {self.level:.2f}%"
