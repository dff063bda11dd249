"""One module's learned change: its factors where it has them, else the dense difference.

lora, rslora    scaling * B @ A
pissa           scaling * (B @ A - B0 @ A0): the start is no zero change, so it is taken off; rank 2 r
kasa            scaling * B @ diag(d) @ A - the r smallest singular values of W with their vectors; rank 2 r
dora            m * (W + scaling * B @ A) / ||W + scaling * B @ A|| - W, row by row (Liu et al. 2024, arXiv:2402.09353,
                eq. 5)
full            W after - W before
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorabench.record.spectrum import Spectrum
from lorabench.spectra.decompose import (
    GRAM,
    Decomposition,
    decompose_dense,
    decompose_factors,
    dense_singular_values,
    factor_singular_values,
)


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of (out, in), as factors (a, b, scaling) or dense."""

    module: str
    """full name within the base"""
    a: torch.Tensor | None = None
    """(rank, in)"""
    b: torch.Tensor | None = None
    """(out, rank)"""
    scaling: float = 1.0
    dense: torch.Tensor | None = None
    """(out, in)"""
    noise: float = 0.0
    """sigma that rounding of what is stored can make"""
    inner: int | None = None
    """rank of the adapter behind a dense change (DoRA)"""
    is_embedding: bool = False
    """whether (out, in) is (dim, rows), which the base stores the other way round"""
    origin: str | None = None
    """name within the base, where that is another (a replicated layer)"""
    expert: int | None = None
    stack: str | None = None
    """of one expert: the base's parameter that holds all of them"""

    @property
    def out_features(self) -> int:
        """Rows of the change."""
        return int((self.b if self.b is not None else self._dense()).shape[0])

    @property
    def in_features(self) -> int:
        """Columns of the change."""
        return int((self.a if self.a is not None else self._dense()).shape[1])

    @property
    def rank(self) -> int:
        """The most that the change can have."""
        inner = self.a.shape[0] if self.a is not None else self.in_features
        return min(inner, self.in_features, self.out_features)

    def matrix(self) -> torch.Tensor:
        """The (out, in) matrix in float64, formed."""
        if self.a is None or self.b is None:
            return self._dense().double()
        return self.scaling * (self.b.double() @ self.a.double())

    def decompose(self, most: int | None = None) -> Decomposition:
        """Singular values and vectors, the first `most`; all (for a dense change beyond 8,192 the first 512) where
        absent."""
        if self.a is None or self.b is None:
            return decompose_dense(self._dense(), most)
        decomposition = decompose_factors(self.a, self.b, self.scaling)
        return decomposition if most is None else decomposition.truncated(most)

    def spectrum_of(self, decomposition: Decomposition) -> Spectrum:
        """What is kept of its decomposition: singular values and sizes."""
        return Spectrum(
            self.module,
            decomposition.values.cpu().numpy(),
            self.in_features,
            self.out_features,
            self.rank,
            self.noise,
            missed=decomposition.missed,
        )

    def singular_values(self) -> torch.Tensor:
        """Singular values (k,), descending, in float64."""
        if self.a is None or self.b is None:
            return dense_singular_values(self._dense())
        return factor_singular_values(self.a, self.b, self.scaling)

    def spectrum(self) -> Spectrum:
        """Singular values and sizes, computed without vectors, which is quicker."""
        if self.a is None and min(self.in_features, self.out_features) > GRAM:
            return self.spectrum_of(self.decompose())
        return Spectrum(
            self.module,
            self.singular_values().cpu().numpy(),
            self.in_features,
            self.out_features,
            self.rank,
            self.noise,
        )

    def _dense(self) -> torch.Tensor:
        assert self.dense is not None
        return self.dense


def of_factors(module: str, a: torch.Tensor, b: torch.Tensor, scaling: float, eps: float | None = None) -> Delta:
    """scaling * b @ a; ||E||_2 <= eps ||b||_F ||a||_F |scaling| holds for what rounding both to their dtype can make.

    `eps` is of the precision that they were stored in, where that is not their own.
    """
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps) if eps is None else eps
    noise = eps * float(torch.linalg.vector_norm(a.double()) * torch.linalg.vector_norm(b.double())) * abs(scaling)
    return Delta(module, a, b, scaling, noise=noise)


def of_start(
    module: str, a: torch.Tensor, b: torch.Tensor, a0: torch.Tensor, b0: torch.Tensor, scaling: float
) -> Delta:
    """scaling * (b @ a - b0 @ a0), of an adapter that does not start at zero."""
    return of_factors(module, torch.cat([a, a0]), torch.cat([b, -b0], dim=1), scaling)


def of_weights(module: str, before: torch.Tensor, after: torch.Tensor) -> Delta:
    """after - before of two (out, in) weights, in float64."""
    eps = max(torch.finfo(before.dtype).eps, torch.finfo(after.dtype).eps)
    return Delta(module, dense=after.double() - before.double(), noise=_rounding(after, eps))


def of_dora(
    module: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, magnitude: torch.Tensor
) -> Delta:
    """m * V / ||V|| - W with V = W + scaling * b @ a; weight is (out, in), magnitude holds out values."""
    adapted = weight.double() + scaling * (b.double() @ a.double())
    scale = magnitude.double().flatten() / torch.linalg.vector_norm(adapted, dim=1)
    noise = _rounding(weight, torch.finfo(magnitude.dtype).eps)
    return Delta(module, dense=scale[:, None] * adapted - weight.double(), noise=noise, inner=a.shape[0])


def of_kasa(module: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, rank: int) -> Delta:
    """scaling * b @ a - U S V^T with the `rank` smallest singular values of the weight (out, in), which KaSA takes off
    it; a holds the diagonal."""
    u, values, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    start = max(len(values) - rank, 0)
    return of_factors(
        module,
        torch.cat([a.double(), vh[start:]]),
        torch.cat([scaling * b.double(), -u[:, start:] * values[start:]], dim=1),
        1.0,
    )


def _rounding(weight: torch.Tensor, eps: float) -> float:
    """sigma_1 of what rounding a matrix entry by entry can make: eps/2 times its longest row and longest column
    together.

    The norm of a random matrix of independent entries is of that order (Seginer 2000, Combin. Probab. Comput. 9.2);
    entries that are uniform within eps/2 leave a factor of the root of 3.
    """
    rows, columns = (torch.linalg.vector_norm(weight.double(), dim=d) for d in (1, 0))
    return 0.5 * eps * float(rows.max() + columns.max()) if weight.numel() else 0.0
