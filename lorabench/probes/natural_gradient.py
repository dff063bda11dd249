"""directions of the first gradient freed of its inputs' and outputs' shape, S_d^-1/2 G S_x^-1/2, above its noise

Where the loss is near its minimum, G = F dW with the Fisher information F, which for one layer is close to the product
of S_x = E[x x^T] of its inputs and S_d = E[d d^T] of its outputs' gradients (K-FAC, Martens and Grosse 2015,
arXiv:1503.05671, equation 1). A gradient that is divided by the roots of both is measured in units of its own noise, so
that directions which the data hardly visit count as well as those which every token takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lorabench.engine.module_statistics import ModuleStatistics

SOURCE = "after K-FAC, Martens and Grosse 2015, arXiv:1503.05671; this rule is our own"
READS = {"activations", "output-gradients"}
SPREADS = False
DAMPING = 1e-3  # of the mean eigenvalue, as in K-FAC's section 6: directions without data are not blown up


def ranks(modules: Mapping[str, ModuleStatistics], mean_rank: int) -> dict[str, int]:
    """Singular values of the whitened mean gradient above the largest one of its whitened noise, by module."""
    from lorabench.spectra.decompose import dense_singular_values

    counts = {}
    for name, m in modules.items():
        assert m.activations is not None and m.output_gradients is not None  # READS says so
        left, right = _inverse_root(m.output_gradients), _inverse_root(m.activations)
        signal = dense_singular_values((left @ m.gradient.double() @ right).float())
        noise = dense_singular_values((left @ m.noise.double() @ right).float())
        counts[name] = int((signal > noise[0]).sum())
    return counts


def _inverse_root(gram: torch.Tensor) -> torch.Tensor:
    """(S + damping mean(eigenvalues) I)^-1/2 of a symmetric matrix, in float64."""
    import torch

    values, vectors = torch.linalg.eigh(gram.double())
    damped = values.clamp_min(0) + DAMPING * values.clamp_min(0).mean()
    return (vectors / damped.sqrt()) @ vectors.T
