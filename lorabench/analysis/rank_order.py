"""Whether two orders of the same conditions agree: Spearman's rho, and how often chance gives as much.

    rho    Pearson's correlation of the ranks, tied values at their mean rank
    p      two-sided: the share of all n! orders of one side whose |rho| is no smaller, for up to 9 pairs (Kendall and
           Gibbons 1990); beyond, t = rho sqrt((n-2) / (1 - rho^2)) with n-2 degrees of freedom, never below 2 / n!, the
           least that any order of n has; where values are tied, the share of 19,999 random orders, this one counted
           with them (Phipson and Smyth 2010)

The t distribution gives p = 0 for four pairs in perfect order, where 2 of 24 orders are as extreme: p = 0.083; and for
ten pairs of which five are tied low and five high on both sides, where it is 2 of 252: p = 0.008.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

EXACT_UP_TO = 9  # 362,880 orders: 0.1 s
_SHUFFLES = 19_999
_SAME = 1e-9  # of rho: orders that are as extreme but for rounding


def spearman(left: Sequence[float], right: Sequence[float]) -> tuple[float, float] | None:
    """rho and its p; None for fewer than three pairs, or where all values of a side are equal."""
    n = len(left)
    if n < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    a, b = (_standard(side) for side in (left, right))
    rho = float(np.clip(a @ b, -1, 1))
    if n > EXACT_UP_TO and min(len(set(left)), len(set(right))) < n:
        shuffled = np.random.default_rng(n).permuted(np.tile(b, (_SHUFFLES, 1)), axis=1)
        return rho, (1 + int(np.count_nonzero(np.abs(shuffled @ a) >= abs(rho) - _SAME))) / (1 + _SHUFFLES)
    if n > EXACT_UP_TO:
        unexplained = max(1 - rho**2, 1e-300)
        p = 2 * float(special.stdtr(n - 2, -abs(rho) * math.sqrt((n - 2) / unexplained)))
        return rho, max(p, 2 / math.factorial(n))
    as_extreme = sum(int(np.count_nonzero(np.abs(a[block] @ b) >= abs(rho) - _SAME)) for block in _orders(n))
    return rho, as_extreme / math.factorial(n)


def _standard(values: Sequence[float]) -> np.ndarray:
    """Ranks with mean 0 and length 1, so that a scalar product is their correlation."""
    ranks = stats.rankdata(values)
    ranks = ranks - ranks.mean()
    return np.asarray(ranks / np.linalg.norm(ranks))


def _orders(n: int) -> list[np.ndarray]:
    """All orders of n places, in n blocks."""
    rest = np.array(list(itertools.permutations(range(n - 1))), dtype=np.int8)
    return [np.insert(np.where(rest >= first, rest + 1, rest), 0, first, axis=1) for first in range(n)]
