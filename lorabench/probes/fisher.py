"""a budget spread by each module's empirical Fisher information (FIM-LoRA, Sathyavageeswaran 2026, arXiv:2605.16800)

    F = mean over batches of ||G_b||_F^2 / (out in),   r proportional to F, at least one

The paper takes the gradients of B of a random adapter, whose expected squares are those of G times A's variance; here
the weight's own gradients are taken, which need no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "FIM-LoRA, Sathyavageeswaran 2026, arXiv:2605.16800"
READS = {"gradients"}
SPREADS = True
MOST = 4  # times the mean rank


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """The share of each module in a budget of mean_rank a module, between 1 and four times the mean."""
    information = {name: m.squared_norm / (m.shape[0] * m.shape[1]) for name, m in modules.items()}
    total = sum(information.values())
    budget = mean_rank * len(modules)
    return {
        name: min(MOST * mean_rank, max(1, round(value / total * budget))) if total else mean_rank
        for name, value in information.items()
    }
