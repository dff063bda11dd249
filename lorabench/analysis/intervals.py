"""95 % intervals of one mean, over seeds or over items: what ± stands for everywhere.

over seeds    half-width t(0.975, n-1) * std / sqrt(n)
over items    half-width 1.96 * standard error, t(0.975, m-1) in its place below 100 items;
              of shares with fewer than ten items right, or wrong, the farther end of Wilson's interval (Wilson 1927):
              (p + z^2/2m -+ z sqrt(p (1-p) / m + z^2 / 4m^2)) / (1 + z^2/m), which knows that none of 20 right is not 0
              for certain
exact         Clopper and Pearson 1934: the shares that a binomial test at 2.5 % a side does not reject
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import special

from lorabench.analysis.difference import CONFIDENCE, SAME, quantile_over_items

FEW_OF_A_KIND = 10  # right or wrong answers: below, the normal interval of a share covers too little
_TAIL = (1 - CONFIDENCE) / 2


def half_over_seeds(mean: float, std: float | None, n: int) -> float | None:
    """Half-width of a mean over n seeds; None for one seed, and where the values do not vary beyond rounding: then the
    noise is unknown."""
    if std is None or n < 2 or std <= SAME * abs(mean):
        return None
    return _t(n - 1) * std / math.sqrt(n)


def half_of(values: Sequence[float]) -> float | None:
    """The same of the values themselves."""
    return (
        half_over_seeds(float(np.mean(values)), float(np.std(values, ddof=1)), len(values)) if len(values) > 1 else None
    )


def half_over_items(value: float, stderr: float | None, items: int | None, share: bool) -> float | None:
    """Half-width of one cell's value over its items; None where no standard error is known. `share`: a mean of what
    lies between 0 and 1."""
    if stderr is None:
        return None
    if share and few_of_a_kind(value, items):
        low, high = wilson(value, items or 1)
        return max(value - low, high - value)
    return quantile_over_items(items) * stderr


def few_of_a_kind(share: float, items: int | None) -> bool:
    """Whether so few items are right, or wrong, that a share's noise is far from normal."""
    return items is not None and items > 0 and 0 <= share <= 1 and min(share, 1 - share) * items < FEW_OF_A_KIND - 1e-9


def wilson(share: float, items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = quantile_over_items(None)
    middle = share + z**2 / (2 * items)
    root = z * math.sqrt(share * (1 - share) / items + z**2 / (4 * items**2))
    return max(0.0, (middle - root) / (1 + z**2 / items)), min(1.0, (middle + root) / (1 + z**2 / items))


def exact(share: float, items: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share; of a mean over seeds, whose count need not be whole, by the same
    beta quantiles."""
    right = share * items
    low = float(special.betaincinv(right, items - right + 1, _TAIL)) if right > 0 else 0.0
    high = float(special.betaincinv(right + 1, items - right, 1 - _TAIL)) if right < items else 1.0
    return low, high


@lru_cache(maxsize=64)
def _t(freedom: int) -> float:
    return -float(special.stdtrit(freedom, _TAIL))
