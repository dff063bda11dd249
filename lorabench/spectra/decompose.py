"""Singular values and vectors of a learned change.

Factors: scaling * B @ A is never formed. With B = Q_B R_B and A^T = Q_A R_A its singular values are those of the
rank x rank core scaling * R_B R_A^T, and its singular vectors Q_B U and Q_A V (Golub and Van Loan, 4th ed., sections 5.2
and 8.6; a 4096 x 4096 change of rank 64: milliseconds instead of seconds). All in float64.

Dense changes, by their smaller side n:

    n <= DIRECT    LAPACK's SVD in float64
    n <= GRAM      eigenvalues of the n x n Gram matrix in float64; sigma_i is then accurate to about eps * sigma_1^2 / sigma_i,
                   so that values below 1e-8 sigma_1 are rounding
    beyond         randomised block Krylov (Musco and Musco 2015, arXiv:1504.05477, Algorithm 2) for the first SKETCH values;
                   what they miss, sqrt(||delta_w||_F^2 - sum sigma^2), is known exactly and told as `missed`
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DIRECT, GRAM = 768, 8192
SKETCH, OVERSAMPLING = 512, 16
SUBSPACE, PASSES = 600, (3, 24)  # columns that a Krylov subspace grows to, within so many passes: values of a Gaussian matrix then err by less than 1 %


@dataclass(frozen=True)
class Decomposition:
    """delta_w = u @ diag(values) @ v.T, float64; `missed` is the Frobenius norm of what is not in it."""

    u: torch.Tensor
    """(out, k), orthonormal columns"""
    values: torch.Tensor
    """(k,), descending"""
    v: torch.Tensor
    """(in, k)"""
    missed: float = 0.0

    def truncated(self, rank: int) -> Decomposition:
        """Its first `rank` terms: the nearest matrix of that rank (Eckart and Young 1936; Mirsky 1960 for every unitarily invariant norm)."""
        lost = float(torch.linalg.vector_norm(self.values[rank:]))
        return Decomposition(self.u[:, :rank], self.values[:rank], self.v[:, :rank], (lost**2 + self.missed**2) ** 0.5)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) of shapes (k, in) and (out, k) with B @ A = delta_w, the values shared evenly between both."""
        root = self.values.sqrt()
        return root[:, None] * self.v.T, self.u * root

    def dense(self) -> torch.Tensor:
        """The (out, in) matrix."""
        return (self.u * self.values) @ self.v.T


def decompose_factors(a: torch.Tensor, b: torch.Tensor, scaling: float) -> Decomposition:
    """Of scaling * b @ a; a is (rank, in), b is (out, rank)."""
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, values, vh = torch.linalg.svd(scaling * (r_b @ r_a.T), full_matrices=False)
    return Decomposition(q_b @ u, values, q_a @ vh.T)


def factor_singular_values(a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Descending singular values (min(rank, in, out),) of scaling * b @ a, in float64, without vectors."""
    r_a = torch.linalg.qr(a.double().T, mode="r").R
    r_b = torch.linalg.qr(b.double(), mode="r").R
    return torch.linalg.svdvals(scaling * (r_b @ r_a.T))


def decompose_dense(delta: torch.Tensor, most: int | None = None) -> Decomposition:
    """Of a dense (out, in) matrix; its first `most` terms, all where absent."""
    delta = delta.double()
    side = min(delta.shape)
    if side <= DIRECT:
        u, values, vh = torch.linalg.svd(delta, full_matrices=False)
        found = Decomposition(u, values, vh.T)
    elif side <= GRAM:
        found = _by_gram(delta, most)
    else:
        found = randomised(delta, most or SKETCH)
    return found if most is None else found.truncated(most)


def dense_singular_values(delta: torch.Tensor) -> torch.Tensor:
    """Descending singular values of a dense matrix in float64: all min(out, in) of them, beyond GRAM the first SKETCH."""
    delta = delta.double()
    side = min(delta.shape)
    if side <= DIRECT:
        return torch.linalg.svdvals(delta)
    if side <= GRAM:
        gram = delta @ delta.T if delta.shape[0] == side else delta.T @ delta
        return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()
    return randomised(delta, SKETCH).values


def _by_gram(delta: torch.Tensor, most: int | None) -> Decomposition:
    """Eigenvectors of the smaller Gram matrix; the other side's are delta^T u / sigma, made orthonormal by QR where sigma is small."""
    tall = delta.shape[0] > delta.shape[1]
    matrix = delta.T if tall else delta  # (side, longer)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    keep = min(most or len(squares), len(squares))
    u = vectors.flip(1)[:, :keep]
    image = matrix.T @ u  # columns are orthogonal, of length sigma
    values = torch.linalg.vector_norm(image, dim=0)
    q, r = torch.linalg.qr(image)
    v = q * torch.sign(torch.diagonal(r)).where(torch.diagonal(r) != 0, torch.ones_like(values))
    missed = float((delta.square().sum() - values.square().sum()).clamp(min=0).sqrt()) if keep < len(squares) else 0.0
    return Decomposition(v, values, u, missed) if tall else Decomposition(u, values, v, missed)


def randomised(delta: torch.Tensor, rank: int) -> Decomposition:
    """The first `rank` terms, from a Krylov subspace that a random block spans; values err from below, by less than 1 % even where they hardly fall.

    The same matrix gives the same numbers each time.
    """
    delta = delta.double()
    width = min(rank + OVERSAMPLING, *delta.shape)
    passes = min(max(math.ceil(SUBSPACE / width), PASSES[0]), PASSES[1])
    generator = torch.Generator(device=delta.device).manual_seed(0)
    block = torch.linalg.qr(delta @ torch.randn(delta.shape[1], width, dtype=delta.dtype, device=delta.device, generator=generator)).Q
    blocks = [block]
    while len(blocks) < passes and len(blocks) * width < min(delta.shape):
        block = torch.linalg.qr(delta @ (delta.T @ block)).Q
        blocks.append(block)
    q = torch.linalg.qr(torch.cat(blocks, dim=1)).Q
    u, values, vh = torch.linalg.svd(q.T @ delta, full_matrices=False)
    k = min(rank, len(values))
    missed = float((delta.square().sum() - values[:k].square().sum()).clamp(min=0).sqrt())
    return Decomposition(q @ u[:, :k], values[:k], vh[:k].T, missed)
