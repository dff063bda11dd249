"""the stable rank of what a few steps of a high rank learned, sum sigma^2 / sigma_1^2

Stable rank as in Rudelson and Vershynin 2007 (J. ACM 54.4), of delta W after a short training; rounded up, since a rank
below it must lose energy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "stable rank: Rudelson and Vershynin 2007, J. ACM 54.4"
READS = {"short-training"}
SPREADS = False


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """The stable rank of each module's change, rounded up; 0 where nothing was learned."""
    from lorabench.record.spectrum import stable_rank

    return {name: math.ceil(stable_rank(m.learned) - 1e-6) for name, m in modules.items()}
