"""One module's learned change: its factors where it has them, else the dense difference.

    lora, rslora    scaling * B @ A
    pissa           scaling * (B @ A - B0 @ A0): the start is no zero change, so it is taken off; rank 2 r
    dora            m * (W + scaling * B @ A) / ||W + scaling * B @ A|| - W, row by row (Liu et al. 2024, arXiv:2402.09353, eq. 5)
    full            W after - W before
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorabench.record.spectrum import Spectrum
from lorabench.spectra.decompose import Decomposition, decompose_dense, decompose_factors, dense_singular_values, factor_singular_values


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

    @property
    def out_features(self) -> int:
        return int((self.b if self.b is not None else self._dense()).shape[0])

    @property
    def in_features(self) -> int:
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
        """Singular values and vectors, the first `most`; all (for a dense change beyond 8,192 the first 512) where absent."""
        if self.a is None or self.b is None:
            return decompose_dense(self._dense(), most)
        found = decompose_factors(self.a, self.b, self.scaling)
        return found if most is None else found.truncated(most)

    def singular_values(self) -> torch.Tensor:
        """Descending, float64."""
        if self.a is None or self.b is None:
            return dense_singular_values(self._dense())
        return factor_singular_values(self.a, self.b, self.scaling)

    def spectrum(self) -> Spectrum:
        """What of it is kept: the singular values and the sizes."""
        return Spectrum(self.module, self.singular_values().cpu().numpy(), self.in_features, self.out_features, self.rank, self.noise)

    def _dense(self) -> torch.Tensor:
        assert self.dense is not None
        return self.dense


def of_factors(module: str, a: torch.Tensor, b: torch.Tensor, scaling: float) -> Delta:
    """scaling * b @ a; ||E||_2 <= eps ||b||_F ||a||_F |scaling| holds for what rounding both to their dtype can make."""
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    noise = eps * float(torch.linalg.vector_norm(a.double()) * torch.linalg.vector_norm(b.double())) * abs(scaling)
    return Delta(module, a, b, scaling, noise=noise)


def of_start(module: str, a: torch.Tensor, b: torch.Tensor, a0: torch.Tensor, b0: torch.Tensor, scaling: float) -> Delta:
    """scaling * (b @ a - b0 @ a0), of an adapter that does not start at zero."""
    return of_factors(module, torch.cat([a, a0]), torch.cat([b, -b0], dim=1), scaling)


def of_weights(module: str, before: torch.Tensor, after: torch.Tensor) -> Delta:
    """after - before, in float64; rounding of `after` makes eps/2 ||W||_F (1/sqrt(out) + 1/sqrt(in)) (the edge of Marchenko and Pastur 1967)."""
    rows, columns = after.shape
    eps = max(torch.finfo(before.dtype).eps, torch.finfo(after.dtype).eps)
    noise = 0.5 * eps * float(torch.linalg.vector_norm(after.double())) * (rows**-0.5 + columns**-0.5)
    return Delta(module, dense=after.double() - before.double(), noise=noise)


def of_dora(module: str, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, magnitude: torch.Tensor) -> Delta:
    """m * V / ||V|| - W with V = W + scaling * b @ a; weight is (out, in), magnitude holds out values."""
    adapted = weight.double() + scaling * (b.double() @ a.double())
    scale = magnitude.double().flatten() / torch.linalg.vector_norm(adapted, dim=1)
    made = scale[:, None] * adapted
    rows, columns = weight.shape
    noise = 0.5 * torch.finfo(magnitude.dtype).eps * float(torch.linalg.vector_norm(weight.double())) * (rows**-0.5 + columns**-0.5)
    return Delta(module, dense=made - weight.double(), noise=noise)
