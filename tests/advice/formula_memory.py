"""A MemoryOracle whose answers are a function's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorabench.advice.types import Candidate, Needs


@dataclass
class FormulaMemory:
    """What a formula says, on a card of so many bytes."""

    memory_bytes: int
    needs: Callable[[Candidate], Needs]
    longest_sequence: Callable[[Candidate], int] = lambda candidate: 0

    def is_too_large(self, candidate):
        return False

    def prefetch(self, candidates):
        pass
