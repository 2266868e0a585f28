"""When something is made to fail."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """When a call fails: now and then by chance, and then more calls in a row, so that searching for the culprit fails too."""

    dice: random.Random
    chance: float
    num_left: int = 0
    num_made: int = 0

    def strikes(self) -> bool:
        """Returns whether the next call fails."""
        if not self.num_left and self.dice.random() < self.chance:
            self.num_left = self.dice.choice((1, 1, 2, 3, 5, 8))
        if not self.num_left:
            return False
        self.num_left -= 1
        self.num_made += 1
        return True
