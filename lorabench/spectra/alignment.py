"""How a change lies to the base weight: amplification, intruder dimensions, and the error of quantisation that it undoes."""

from __future__ import annotations

import math

import torch

from lorabench.record.spectrum import Alignment, Intruders, Repair
from lorabench.spectra.decompose import GRAM, Decomposition, decompose_dense, randomised
from lorabench.spectra.delta import Delta

EXACT = 1024  # smaller side up to which the first singular values of a base weight are taken from a whole SVD
LOOKED_AT, THRESHOLD = 10, 0.5  # Shuttleworth et al. 2024: the first ten, and a cosine of one half
INTRUDERS_UP_TO = 2048  # smaller side beyond which two whole decompositions take many seconds a module


def align(change: Decomposition, rank: int, weight: torch.Tensor) -> Alignment:
    """The four norms of LoRA's Table 7 for the first `rank` singular vectors of a change; weight is (out, in).

    ||U^T W V||_F for U, V of the change, of W itself (then the root of the sum of W's first sigma^2), and the root mean square of random ones:
    E ||U^T W V||_F^2 = ||W||_F^2 (k / out) (k / in) for independent uniform orthonormal U and V (second moments of the Haar measure).
    """
    weight = weight.to(change.u.device).double()
    out, into = weight.shape
    u, v = change.u[:, :rank], change.v[:, :rank]
    norm = float(torch.linalg.vector_norm(weight))
    own = float(torch.linalg.vector_norm(leading_values(weight, rank))) if rank else 0.0
    change_norm = float(torch.linalg.vector_norm(change.values[:rank]))
    return Alignment(norm, rank, change_norm, float(torch.linalg.vector_norm(u.T @ weight @ v)), own, norm * rank / math.sqrt(out * into))


def leading_values(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The first `rank` singular values; beyond EXACT by a randomised one, whose values err by less than 1 % (from below)."""
    if min(matrix.shape) <= EXACT:
        return decompose_dense(matrix, rank).values
    return randomised(matrix.double(), rank).values


def intruders(delta: Delta, weight: torch.Tensor, looked_at: int = LOOKED_AT, threshold: float = THRESHOLD) -> Intruders | None:
    """Algorithm 1 of Shuttleworth et al. 2024 (arXiv:2410.21228): of the first left singular vectors of W + delta_w those
    whose best |cosine| with any left singular vector of W is below the threshold; weight is (out, in).

    None beyond a smaller side of 8,192, where not all of W's vectors are to be had, and where W + delta_w is zero.
    """
    if min(weight.shape) > GRAM:
        return None
    before = weight.double()
    after = before + delta.matrix().to(before.device)
    if not bool(after.any()):
        return None
    tuned = decompose_dense(after, min(looked_at, *after.shape))
    own = decompose_dense(before).u
    best = (own.T @ tuned.u).abs().amax(dim=0)
    new = best < threshold
    share = float(tuned.values[new].square().sum() / after.square().sum()) if bool(new.any()) else 0.0
    return Intruders(int(new.sum()), len(best), threshold, share)


def repair(change: Decomposition, rank: int, weight: torch.Tensor, quantised: torch.Tensor) -> Repair | None:
    """Whether a change learned on a quantised weight undoes E = W_q - W; None where there is no error. Matrices are (out, in).

    The best that a change of `rank` can do is the first terms of -E (Eckart and Young 1936), which leaves 1 - best_share of ||E||_F^2.
    """
    error = quantised.double() - weight.double()
    square = float(error.square().sum())
    if not square:
        return None
    towards = -float(((change.u.T @ error) * change.v.T).sum(dim=1) @ change.values)  # <delta_w, -E> = -sum sigma_i u_i^T E v_i
    own = float(change.values.square().sum())
    cosine = towards / math.sqrt(square * own) if own else 0.0
    best = float(leading_values(error, min(rank, *error.shape)).square().sum()) / square if rank else 0.0
    return Repair(math.sqrt(square), cosine, (2 * towards - own) / square, min(best, 1.0))
