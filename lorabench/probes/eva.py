"""a budget spread by the explained variance of each module's inputs (EVA, Paischer et al. 2024, arXiv:2410.07170)

Each component i of a module's inputs explains e_i = sigma_i^2 / sum sigma^2 of their variance; the mean_rank times
number of modules largest e_i of all modules are taken, at most RHO mean_rank of one module (the paper's rho = 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "EVA, Paischer et al. 2024, arXiv:2410.07170, section 3.2"
READS = {"activations"}
SPREADS = True
RHO = 2


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """How many of the most explaining components lie in each module; 0 leaves a module out."""
    components = [
        (float(share), name) for name, m in modules.items() for share in m.explained_variance[: RHO * mean_rank]
    ]
    largest = sorted(components, reverse=True)[: mean_rank * len(modules)]
    count = Counter(name for _, name in largest)
    return {name: count[name] for name in modules}
