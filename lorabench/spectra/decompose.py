"""Singular values and vectors of a learned change.

Factors: scaling * B @ A is never formed. With B = Q_B R_B and A^T = Q_A R_A its singular values are those of the rank x
rank core scaling * R_B R_A^T, and its singular vectors Q_B U and Q_A V (Golub and Van Loan, 4th ed., sections 5.2 and
8.6; a 4096 x 4096 change of rank 64: milliseconds instead of seconds). All in float64.

Dense changes, by their smaller side n:

    n <= DIRECT    LAPACK's SVD in float64
    n <= GRAM      eigenvalues of the n x n Gram matrix in float64; sigma_i is then accurate to about eps * sigma_1^2 /
                   sigma_i, so that values below 1e-8 sigma_1 are rounding
    beyond         randomised block Krylov (Musco and Musco 2015, arXiv:1504.05477, Algorithm 2) for the first SKETCH
                   values; what they miss, sqrt(||delta_w||_F^2 - sum sigma^2), is known exactly and told as `missed`
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DIRECT, GRAM = 256, 8192
SKETCH, OVERSAMPLING = 512, 16
SUBSPACE, PASSES = (
    600,
    (3, 24),
    # columns that a Krylov subspace grows to, within so many passes: values of a Gaussian matrix then err by less than
    # 1 %
)


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
        """Its first `rank` terms: the nearest matrix of that rank (Eckart and Young 1936; Mirsky 1960 for every
        unitarily invariant norm)."""
        tail_norm = float(torch.linalg.vector_norm(self.values[rank:]))
        return Decomposition(
            self.u[:, :rank], self.values[:rank], self.v[:, :rank], (tail_norm**2 + self.missed**2) ** 0.5
        )

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
        decomposition = Decomposition(u, values, vh.T)
    elif side <= GRAM:
        decomposition = _by_gram(delta, most)
    else:
        decomposition = randomised(delta, most or SKETCH)
    return decomposition if most is None else decomposition.truncated(most)


def dense_singular_values(delta: torch.Tensor) -> torch.Tensor:
    """Descending singular values of a dense matrix in float64: all min(out, in) of them, beyond GRAM the first
    SKETCH."""
    delta = delta.double()
    side = min(delta.shape)
    if side <= DIRECT:
        return torch.linalg.svdvals(delta)
    if side <= GRAM:
        gram = delta @ delta.T if delta.shape[0] == side else delta.T @ delta
        return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()
    return randomised(delta, SKETCH).values


def leading(matrix: torch.Tensor, most: int, vectors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `most` singular values (k,), descending, and the first `vectors` left singular vectors (out, k') of a
    dense (out, in) matrix.

    From the last eigenpairs of the smaller Gram matrix in float64, which are had without the others (LAPACK's syevr: a
    sixth of a whole SVD's time); a value errs by about eps * sigma_1^2 / sigma. Beyond GRAM by `randomised`.
    """
    matrix = matrix.double()
    side = min(matrix.shape)
    most, vectors = min(most, side), min(vectors, most, side)
    if side > GRAM:
        decomposition = randomised(matrix, most)
        return decomposition.values, decomposition.u[:, :vectors]
    tall = matrix.shape[0] > matrix.shape[1]
    gram = _gram(matrix, tall)
    if not vectors:
        return _last_eigenvalues(gram, most).clamp(min=0).sqrt(), matrix[:, :0]
    squares, own = _last_eigenpairs(gram, most)
    leading_vectors = own[:, :vectors]
    return squares.clamp(min=0).sqrt(), (
        torch.nn.functional.normalize(matrix @ leading_vectors, dim=0) if tall else leading_vectors.contiguous()
    )


def best_cosines(matrix: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """For each unit column of `directions` (out, k) the largest |cosine| with any left singular vector of a matrix
    (out, in).

    Vectors of singular values that float32 rounding can make (below 1e-7 of the largest) are arbitrary, and are no
    directions of the matrix.
    """
    matrix = matrix.double()
    tall = matrix.shape[0] > matrix.shape[1]
    squares, own = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
    reliable = squares > 1e-14 * squares[-1]
    if not bool(reliable.any()):
        return torch.zeros(directions.shape[1], dtype=torch.float64, device=directions.device)
    own = own[:, reliable]
    cosines = own.T @ (matrix.T @ directions) / squares[reliable].sqrt()[:, None] if tall else own.T @ directions
    return cosines.abs().amax(dim=0)


def _gram(matrix: torch.Tensor, tall: bool) -> torch.Tensor:
    """matrix^T matrix of a tall one, else matrix matrix^T; on a CPU its lower triangle alone, in half the time, and
    zeros above."""
    if matrix.device.type != "cpu":
        return matrix.T @ matrix if tall else matrix @ matrix.T
    from scipy.linalg.blas import dsyrk

    columns = matrix.detach().contiguous().numpy().T  # in Fortran's order
    return torch.from_numpy(dsyrk(1.0, columns, trans=0 if tall else 1, lower=1))


def _last_eigenpairs(gram: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `most` largest eigenvalues (k,) of a symmetric matrix, descending, with their vectors (n, k); only its lower
    triangle is read."""
    n = len(gram)
    if gram.device.type != "cpu" or not 0 < most < n:
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(0)[:most], vectors.flip(1)[:, :most]
    from scipy.linalg import eigh  # 0.1 s

    some, own = eigh(gram.numpy(), subset_by_index=(n - most, n - 1), check_finite=False)
    return torch.from_numpy(some[::-1].copy()), torch.from_numpy(own[:, ::-1].copy())


def _last_eigenvalues(gram: torch.Tensor, most: int) -> torch.Tensor:
    """The `most` largest eigenvalues alone."""
    n = len(gram)
    if gram.device.type != "cpu" or not 0 < most < n:
        return torch.linalg.eigvalsh(gram).flip(0)[:most]
    from scipy.linalg import eigh

    return torch.from_numpy(
        eigh(gram.numpy(), eigvals_only=True, subset_by_index=(n - most, n - 1), check_finite=False)[::-1].copy()
    )


def _by_gram(delta: torch.Tensor, most: int | None) -> Decomposition:
    """Eigenvectors of the smaller Gram matrix; the other side's are delta^T u / sigma, made orthonormal by QR where
    sigma is small."""
    tall = delta.shape[0] > delta.shape[1]
    matrix = delta.T if tall else delta  # (side, longer)
    side = len(matrix)
    keep = min(most or side, side)
    _, u = _last_eigenpairs(_gram(matrix, tall=False), keep)
    image = matrix.T @ u  # columns are orthogonal, of length sigma
    values = torch.linalg.vector_norm(image, dim=0)
    q, r = torch.linalg.qr(image)
    v = q * torch.sign(torch.diagonal(r)).where(torch.diagonal(r) != 0, torch.ones_like(values))
    missed = float((delta.square().sum() - values.square().sum()).clamp(min=0).sqrt()) if keep < side else 0.0
    return Decomposition(v, values, u, missed) if tall else Decomposition(u, values, v, missed)


def randomised(delta: torch.Tensor, rank: int) -> Decomposition:
    """The first `rank` terms, from a Krylov subspace that a random block spans; values err from below, by less than 1 %
    even where they hardly fall.

    The same matrix gives the same numbers each time.
    """
    delta = delta.double()
    width = min(rank + OVERSAMPLING, *delta.shape)
    passes = min(max(math.ceil(SUBSPACE / width), PASSES[0]), PASSES[1])
    generator = torch.Generator(device=delta.device).manual_seed(0)
    block = torch.linalg.qr(
        delta @ torch.randn(delta.shape[1], width, dtype=delta.dtype, device=delta.device, generator=generator)
    ).Q
    blocks = [block]
    while len(blocks) < passes and len(blocks) * width < min(delta.shape):
        block = torch.linalg.qr(delta @ (delta.T @ block)).Q
        blocks.append(block)
    q = torch.linalg.qr(torch.cat(blocks, dim=1)).Q
    u, values, vh = torch.linalg.svd(q.T @ delta, full_matrices=False)
    k = min(rank, len(values))
    missed = float((delta.square().sum() - values[:k].square().sum()).clamp(min=0).sqrt())
    return Decomposition(q @ u[:, :k], values[:k], vh[:k].T, missed)
