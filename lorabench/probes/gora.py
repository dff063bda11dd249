"""a budget spread by mean |W * G|, how much the loss depends on the weights (GoRA, He et al. 2025, arXiv:2502.12171)

    I = mean |W * G|,   a = I / sum I,   r = a B / sqrt(out + in),   B = sum of mean_rank sqrt(out + in)

Ranks stay between half and four times the mean rank, as the paper's r_min and r_max around r_ref = 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "GoRA, He et al. 2025, arXiv:2502.12171, section 3.2"
READS = {"gradients"}
SPREADS = True
LEAST, MOST = 0.5, 4.0  # of the mean rank


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """The share of each module in a budget of mean_rank a module."""
    importance = {name: float((m.weight() * m.gradient).abs().mean()) for name, m in modules.items()}
    total = sum(importance.values())
    budget = sum(mean_rank * math.sqrt(sum(m.shape)) for m in modules.values())
    least, most = math.ceil(LEAST * mean_rank), round(MOST * mean_rank)
    return {
        name: min(most, max(least, round(importance[name] / total * budget / math.sqrt(sum(m.shape)))))
        if total
        else mean_rank
        for name, m in modules.items()
    }
