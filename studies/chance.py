"""The accuracy that guessing reaches, and what cannot be told from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

#: share of guesses that pass the level
_PASSED = 0.01


@dataclass(frozen=True)
class Chance:
    """Guessing one of `num_classes` classes, measured on `num_images` images."""

    num_classes: int
    num_images: int

    @property
    def percent(self) -> float:
        """Expected accuracy, percent."""
        return 100 / self.num_classes

    def level(self, num_guesses: int = 1) -> float:
        """Accuracy that the best of so many guesses passes once in a hundred times, percent; by the normal law."""
        share = 1 / self.num_classes
        errors = NormalDist().inv_cdf((1 - _PASSED) ** (1 / max(1, num_guesses)))
        return self.percent + errors * 100 * math.sqrt(share * (1 - share) / max(1, self.num_images))

    def covers(self, value: float, num_guesses: int = 1) -> bool:
        """Whether an accuracy in percent, the best of so many, cannot be told from guessing."""
        return value <= self.level(num_guesses)

    def words(self, num_guesses: int = 1) -> str:
        """Chance and its level, for a sentence."""
        best = "" if num_guesses <= 1 else f" the best of {num_guesses}"
        return f"{self.percent:.2f}%, on {self.num_images:,} images{best} up to {self.level(num_guesses):.2f}%"
