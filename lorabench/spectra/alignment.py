"""How a change lies to the base weight: amplification, intruder dimensions, and the error of quantization that it
undoes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lorabench.record.spectrum import Alignment, Intruders, Repair
from lorabench.spectra.decompose import GRAM, Decomposition, best_cosines, leading, randomised
from lorabench.spectra.delta import Delta

EXACT = 1024  # smaller side up to which the first singular values of a base weight are taken from a whole SVD
LOOKED_AT, THRESHOLD = 10, 0.5  # Shuttleworth et al. 2024: the first ten, and a cosine of one half
VECTORS = (
    16  # of W's own: more than are looked at, so that a small change that turns the last ones is still decided by them
)
DECIDED = 1e-6  # a bound on a cosine that is so near the threshold decides nothing
INTRUDERS_UP_TO = 2048  # smaller side beyond which a decomposition takes many seconds a module
Values = Callable[[torch.Tensor, int], torch.Tensor]
"""a matrix' first singular values, so many at least"""


def align(change: Decomposition, rank: int, weight: torch.Tensor, own_values: torch.Tensor | None = None) -> Alignment:
    """The four norms of LoRA's Table 7 for the first `rank` singular vectors of a change; weight is (out, in).

    ||U^T W V||_F for U, V of the change, of W itself (then the root of the sum of W's first sigma^2), and the root mean
    square of random ones:
    E ||U^T W V||_F^2 = ||W||_F^2 (k / out) (k / in) for independent uniform orthonormal U and V (second moments of the
    Haar measure). `own_values` are W's first singular values where they are known already, `rank` of them at least.
    """
    weight = weight.to(change.u.device).double()
    out, into = weight.shape
    u, v = change.u[:, :rank], change.v[:, :rank]
    norm = float(torch.linalg.vector_norm(weight))
    values = own_values[:rank] if own_values is not None else leading_values(weight, rank) if rank else torch.zeros(0)
    own = float(torch.linalg.vector_norm(values.double()))
    change_norm = float(torch.linalg.vector_norm(change.values[:rank]))
    return Alignment(
        norm,
        rank,
        change_norm,
        float(torch.linalg.vector_norm(u.T @ weight @ v)),
        own,
        norm * rank / math.sqrt(out * into),
    )


def leading_values(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The first `rank` singular values; beyond EXACT by a randomised decomposition, whose values err by less than 1 %
    (from below)."""
    if min(matrix.shape) <= EXACT:
        return leading(matrix, rank, 0)[0]
    return randomised(matrix.double(), rank).values


def intruders(
    delta: Delta,
    weight: torch.Tensor,
    looked_at: int = LOOKED_AT,
    threshold: float = THRESHOLD,
    own_left: torch.Tensor | None = None,
) -> Intruders | None:
    """Algorithm 1 of Shuttleworth et al. 2024 (arXiv:2410.21228): of the first left singular vectors of W + delta_w
    those whose best |cosine| with any left singular vector of W is below the threshold; weight is (out, in).

    W's vectors u_i are orthonormal, so a unit vector's squared cosines with them sum to at most 1: what W's first ones
    (`own_left`, computed where they are not given) leave of that 1 bounds the cosine with every other one, and all of
    W's vectors are computed only where this bound does not decide. None beyond a smaller side of 8,192, where not all
    of them are to be had, and where W + delta_w is zero.
    """
    if min(weight.shape) > GRAM:
        return None
    before = weight.double()
    after = before + delta.matrix().to(before.device)
    if not bool(after.any()):
        return None
    values, tuned = leading(after, looked_at, looked_at)
    if own_left is None:
        own_left = leading(before, VECTORS, VECTORS)[1]
    cosines = (own_left.to(tuned.device).T @ tuned).abs()
    best = cosines.amax(dim=0)
    remainder = (1 - cosines.square().sum(dim=0)).clamp(min=0).sqrt()
    if bool(((best < threshold) & (remainder >= threshold - DECIDED)).any()):
        best = torch.maximum(best, best_cosines(before, tuned))
    new = best < threshold
    share = float(values[new].square().sum() / after.square().sum()) if bool(new.any()) else 0.0
    return Intruders(int(new.sum()), len(best), threshold, share)


def repair(
    change: Decomposition,
    rank: int,
    weight: torch.Tensor,
    quantized: torch.Tensor,
    error_values: Values | None = None,
    dense: torch.Tensor | None = None,
) -> Repair | None:
    """Whether a change learned on a quantized weight undoes E = W_q - W; None where there is no error. Matrices are
    (out, in).

    The best that a change of `rank` can do is the first terms of -E (Eckart and Young 1936), which leaves 1 -
    best_share of ||E||_F^2. `error_values` gives the first singular values of E, so many at least as are asked for;
    computed here where it is absent. `dense` is the whole change where `change` holds only its first terms.
    """
    error = quantized.double() - weight.double()
    square = float(error.square().sum())
    if not square:
        return None
    if dense is not None:
        whole = dense.to(error.device).double()
        overlap, own = -float((whole * error).sum()), float(whole.square().sum())
    else:
        overlap = -float(
            ((change.u.T @ error) * change.v.T).sum(dim=1) @ change.values
        )  # <delta_w, -E> = -sum sigma_i u_i^T E v_i
        own = float(change.values.square().sum())
    cosine = overlap / math.sqrt(square * own) if own else 0.0
    k = min(rank, *error.shape)
    best = float((error_values or leading_values)(error, k)[:k].double().square().sum()) / square if k else 0.0
    return Repair(math.sqrt(square), cosine, (2 * overlap - own) / square, min(best, 1.0))
