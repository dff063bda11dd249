"""Similarity of the subspaces that two changes span.

    phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j)      in [0, 1]      LoRA section 7.2, equation 4 and appendix G (Hu et al.
                                                                  2021, arXiv:2106.09685)

for the first i singular vectors of one change and the first j of the other. LoRA takes the right singular vectors of A
alone; here they are those of delta_w = scaling * B @ A, which do not depend on how the product is split into factors:
`right` is what is read, `left` what is written. Of independent uniform subspaces of an n-dimensional space max(i, j) /
n is expected (E ||U^T V||_F^2 = i j / n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lorabench.spectra.decompose import Decomposition

MOST = 64  # columns compared at most: a heat map shows no more


@dataclass(frozen=True, eq=False)
class SubspaceSimilarity:
    """phi of two changes of one module, for all i and j up to their numerical ranks."""

    module: str
    left: torch.Tensor
    """(i, j), of the left singular vectors"""
    right: torch.Tensor
    """(i, j), of the right ones"""
    out_features: int
    in_features: int

    def whole(self, side: str) -> float | None:
        """phi of the whole subspaces; None where one of them is empty."""
        table = self.left if side == "left" else self.right
        return float(table[-1, -1]) if table.numel() else None

    def random(self, side: str) -> float:
        """What independent uniform subspaces of the same sizes are expected to have."""
        table, n = (self.left, self.out_features) if side == "left" else (self.right, self.in_features)
        return max(table.shape) / n


def phi(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(i, j) table of phi(i, j) for orthonormal columns u (n, i) and v (n, j)."""
    squares = (u.T @ v).square().cumsum(0).cumsum(1)
    rows, columns = (torch.arange(1, n + 1, dtype=squares.dtype, device=squares.device) for n in squares.shape)
    return squares / torch.minimum(rows[:, None], columns[None, :])


def similarity(module: str, one: Decomposition, other: Decomposition, ranks: tuple[int, int]) -> SubspaceSimilarity:
    """phi of two changes, each with so many of its singular vectors as it has directions (its numerical rank), MOST at
    most."""
    i, j = (min(r, MOST) for r in ranks)
    left, right = phi(one.u[:, :i], other.u[:, :j]), phi(one.v[:, :i], other.v[:, :j])
    return SubspaceSimilarity(module, left, right, one.u.shape[0], one.v.shape[0])


def mean(similarities: Sequence[SubspaceSimilarity], side: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean phi, mean of what random subspaces have) over the modules that reach an entry; empty where none has any
    direction."""
    tables = [
        (getattr(s, side).cpu().numpy(), s.out_features if side == "left" else s.in_features) for s in similarities
    ]
    rows, columns = (max((t.shape[i] for t, _ in tables), default=0) for i in (0, 1))
    total, random, number = np.zeros((rows, columns)), np.zeros((rows, columns)), np.zeros((rows, columns))
    i, j = np.indices((rows, columns)) + 1
    for table, n in tables:
        here = (i <= table.shape[0]) & (j <= table.shape[1])
        total[: table.shape[0], : table.shape[1]] += table
        random[here] += np.maximum(i, j)[here] / n
        number += here
    reached = number > 0
    longest = (int(reached.any(axis=1).sum()), int(reached.any(axis=0).sum()))
    corner = np.ix_(range(longest[0]), range(longest[1]))
    with np.errstate(invalid="ignore"):
        return (total / number)[corner], (random / number)[corner]
