"""Singular values of a learned delta.

From factors, delta_w = scaling * B @ A is never formed: with B = Q_B R_B and A^T = Q_A R_A its singular
values are those of scaling * R_B @ R_A^T, a rank x rank matrix (Golub and Van Loan, 4th ed., section 5.2
for QR; orthonormal factors leave singular values alone). Dense deltas go to LAPACK directly.
"""

from __future__ import annotations

import torch


def factor_singular_values(a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Descending singular values (rank,) of scaling * b @ a, in float64; a is (rank, in), b is (out, rank)."""
    r_a = torch.linalg.qr(a.double().T, mode="r").R
    r_b = torch.linalg.qr(b.double(), mode="r").R
    return torch.linalg.svdvals(abs(scaling) * (r_b @ r_a.T))


def dense_singular_values(delta: torch.Tensor) -> torch.Tensor:
    """Descending singular values (min(out, in),) of a dense matrix, in float64."""
    return torch.linalg.svdvals(delta.double())
