"""ranks that hold 90 % of the energy of what a few steps of a high rank learned

Energy rank k(0.9): the least k with sigma_1^2 + ... + sigma_k^2 at least 90 % of all, of delta W after a short
training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "the share of energy that lorabench spectrum shows as k(0.9)"
READS = {"short-training"}
SPREADS = False
SHARE = 0.9


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """k(0.9) of each module's change; 0 where nothing was learned."""
    from lorabench.record.spectrum import energy_rank

    return {name: energy_rank(m.learned, SHARE) for name, m in modules.items()}
