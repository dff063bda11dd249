"""directions of the first gradient that rise above its noise, r = max{r: sigma_r(G0)^2 >= C/n}

The rule is that of "Spectral Dynamics of Low-Rank Adaptation" (OpenReview gg2Wb2HPOI), which leaves C open. Here C/n is
measured: the mean gradient over n batches and half the difference of the means of two halves of them have the same
noise, and the difference has no signal, so C/n = sigma_1((G_even - G_odd) / 2)^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "OpenReview gg2Wb2HPOI, abstract, (ii)"
READS = {"gradients"}
SPREADS = False


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """Singular values of the mean gradient above the largest one of its noise, by module; 0 where none is."""
    from lorabench.spectra.decompose import dense_singular_values

    return {
        name: int((dense_singular_values(m.gradient) > dense_singular_values(m.noise)[0]).sum())
        for name, m in modules.items()
    }
