"""How many numbers a training changed, and where they stand: in the adapters that are decomposed, or elsewhere in the
file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Trained:
    """Counts of numbers in an adapter's file."""

    adapters: int
    """in the factors (with magnitudes and diagonals)"""
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """trained as well, by what it is: modules saved whole, rows of an embedding, biases"""
    saved_along: Mapping[str, int] = field(default_factory=dict)
    """in the file, but not trained by its configuration, by module"""

    @property
    def outside(self) -> int:
        """Trained numbers that no singular value shows."""
        return sum(self.elsewhere.values())

    @property
    def total(self) -> int:
        """All trained numbers."""
        return self.adapters + self.outside
