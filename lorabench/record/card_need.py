"""What a cell asks a card for, in bytes, and the share of a card that is: a fraction where several fit one card, whole
cards where not.

    bytes of a pack of n cells  =  process + shared + n * own
    share                       =  1 / min(MOST, floor(card / bytes)), rounded down to ten-thousandths
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COUNTED = 10_000
"""parts of a card that a scheduler tells apart: Ray's resources have four decimals (ray-core/scheduling/resources)"""
MOST = 64  # processes on a card: up to 99 a share that is rounded down leaves no room for one more


@dataclass(frozen=True)
class CardNeed:
    """What one cell needs on one kind of card, by the high end of the prediction."""

    card_bytes: int
    """of the card in all"""
    process_bytes: int
    """of every process: the CUDA context"""
    shared_bytes: int
    """of the frozen base, once for all cells of a pack"""
    own_bytes: int
    """of each cell"""
    cards: int = 1
    """that train the cell together, where one is not enough"""

    def bytes(self, cells: int = 1) -> int:
        """Of a process with so many cells that train at once."""
        return self.process_bytes + self.shared_bytes + cells * self.own_bytes

    def share(self, cells: int = 1) -> float:
        """Of a card; more than 1 is a number of whole cards."""
        if self.cards > 1:
            return float(self.cards)
        fit = self.card_bytes // max(1, self.bytes(cells))
        return 1.0 if fit < 2 else math.floor(COUNTED / min(fit, MOST)) / COUNTED

    def available(self, share: float) -> int:
        """What a process may allocate of a share, beside its context."""
        return max(0, int(self.card_bytes * share) - self.process_bytes)
