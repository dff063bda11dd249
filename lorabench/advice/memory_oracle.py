"""What advice asks of a prediction of memory, so that it needs neither torch nor a card. `workflows.traced_memory` answers from traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lorabench.advice.types import Candidate, Needs


class MemoryOracle(Protocol):
    """What candidates for one workload need on one card."""

    @property
    def memory_bytes(self) -> int:
        """The card's usable memory."""

    def needs(self, candidate: Candidate) -> Needs:
        """Bytes, and seconds of an optimizer step."""

    def is_too_large(self, candidate: Candidate) -> bool:
        """Whether a candidate is known not to fit before its needs are known; False where that is not known."""

    def prefetch(self, candidates: Sequence[Candidate]) -> None:
        """Is told of candidates whose needs are asked for next, to find them side by side."""

    def longest_sequence(self, candidate: Candidate) -> int:
        """The longest sequence in tokens, up to the workload's, at which a candidate fits; 0 where none does."""
