"""The difference of two conditions in one metric, with what is known of its noise.

    d_s  = value(left, seed s) - value(right, seed s);     d = mean over the n seeds both have
    over seeds    half-width t(n-1) * sd(d_s) / sqrt(n)
    over items    the same n cells item by item: D_i = mean_s (left_si - right_si); items are drawn again with
                  replacement 2,000 times, d* = sum D_i* / sum w_i*; percentiles of d* (Efron and Tibshirani 1993,
                  13.3), no narrower than a normal interval: of many items, where drawing takes too long, and of losses,
                  whose sequences weigh differently (Cochran 1977, equation 6.9), that alone; of right and wrong answers
                  with half an item added to each cell of their table, since one or two discordant items tell less than
                  they seem to (Agresti and Min 2005). Of m < 100 items half-widths are t(m-1) / 1.96 times as long:
                  percentiles of few items are as much too near as 1.96 standard errors (Hesterberg 2015, the expanded
                  percentile interval); of more that is 1 % or less
    over both     d -+ sqrt(half_seeds^2 + half_items^2), each side its own: the method of variance estimates
                  recovery for independent effects (Zou and Donner 2008, equation 4)

Losses are judged on the data that they were trained and measured on: over seeds, which share both, so that an interval
says nothing of other data. Accuracies of a few hundred items are judged over both, since another few hundred items
would give another answer. With one seed there are items alone, and how far a repetition would land is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lorabench.record.items import Items

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_ITEMS = 100  # below, t is used in place of the normal distribution
_Z = float(special.ndtri((1 + CONFIDENCE) / 2))
SAME = 1e-12  # a spread below this share of the values is float rounding
_MOST_RESAMPLED = 2048  # items up to which the resampling weights are kept: 33 MB
_PLACES = (
    round((1 - CONFIDENCE) / 2 * (RESAMPLES - 1)),
    round((1 + CONFIDENCE) / 2 * (RESAMPLES - 1)),
)  # of the percentiles among the sorted
_STEPS = 36  # of the bisection for p, on a log scale: ten digits

Array = NDArray[np.floating]
Basis = Literal["seeds", "items", "seeds and items"]


@dataclass(frozen=True)
class Difference:
    """left - right, and its noise on each side: standard errors of the two sources that are known."""

    pairs: int
    value: float
    seed_error: float | None
    """standard error over seeds; absent for one pair"""
    item_errors: tuple[float, float] | None
    """half-widths over items below and above, divided by 1.96; absent where items are unknown or not counted"""
    items: int | None = None
    """number of items; absent where it is not known: then they are taken for many"""

    @property
    def basis(self) -> Basis | None:
        """What the interval speaks for."""
        if self.seed_error is None:
            return None if self.item_errors is None else "items"
        return "seeds" if self.item_errors is None else "seeds and items"

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval; None where no noise is known."""
        if self.basis is None:
            return None
        tail = (1 - CONFIDENCE) / 2
        return self.value - self._half_width(0, tail), self.value + self._half_width(1, tail)

    def bound(self, side: Literal["low", "high"], tail: float = 0.05) -> float | None:
        """One-sided bound that the true difference lies beyond with probability `tail`."""
        if self.basis is None:
            return None
        return self.value - self._half_width(0, tail) if side == "low" else self.value + self._half_width(1, tail)

    def p_beyond(self, threshold: float) -> float | None:
        """One-sided p of the hypothesis that the truth lies at the threshold or beyond it, seen from the value."""
        if self.basis is None:
            return None
        side = 0 if threshold < self.value else 1
        distance = abs(self.value - threshold)
        if self.item_errors is None and self.seed_error is not None:
            return float(special.stdtr(self.pairs - 1, -distance / self.seed_error))
        if self.seed_error is None and self.item_errors is not None:
            return self._items_beyond(distance / self.item_errors[side])
        low, high = 1e-18, 0.5  # the half-width falls as the tail grows
        for _ in range(_STEPS):
            middle = math.sqrt(low * high)
            if self._half_width(side, middle) > distance:
                low = middle
            else:
                high = middle
        return high

    @property
    def p_value(self) -> float | None:
        """Two-sided p of no difference; below 0.05 exactly where the interval leaves zero out."""
        p = self.p_beyond(0.0)
        return None if p is None else min(1.0, 2 * p)

    def p_equivalent(self, margin: float) -> float | None:
        """p of two one-sided tests that the truth lies outside of -margin..margin (Schuirmann 1987)."""
        if self.basis is None:
            return None
        if abs(self.value) >= margin:
            return 1.0
        return max(p for p in (self.p_beyond(-margin), self.p_beyond(margin)) if p is not None)

    def _half_width(self, side: int, tail: float) -> float:
        over_seeds = 0.0 if self.seed_error is None else -float(special.stdtrit(self.pairs - 1, tail)) * self.seed_error
        over_items = 0.0 if self.item_errors is None else quantile_over_items(self.items, tail) * self.item_errors[side]
        return math.hypot(over_seeds, over_items)

    def _items_beyond(self, errors: float) -> float:
        """What so many standard errors over items leave beyond them."""
        few = self.items is not None and self.items < FEW_ITEMS
        return float(
            special.stdtr(self.items - 1, -errors) if self.items is not None and few else special.ndtr(-errors)
        )


def quantile_over_items(items: int | None, tail: float = (1 - CONFIDENCE) / 2) -> float:
    """How many standard errors over items leave so much beyond them: of t where items are few, else of the normal
    distribution."""
    return -float(
        special.stdtrit(items - 1, tail) if items is not None and 1 < items < FEW_ITEMS else special.ndtri(tail)
    )


def difference(
    left: Array, right: Array, items: tuple[float, float] | None = None, count: int | None = None
) -> Difference:
    """Of values paired by seed, at least one; `items` are the item errors, where they are to count."""
    each = left - right
    n, mean = len(each), float(np.mean(each))
    spread = float(np.std(each, ddof=1)) if n > 1 else None
    if spread is not None and spread <= SAME * float(np.max(np.abs([left, right]))):
        # a spread of zero over a few seeds comes from rounding (accuracy over 200 items), not from certainty
        spread = None if items is None else 0.0
    return Difference(n, mean, None if spread is None else spread / math.sqrt(n), items, count)


def item_errors(left: Sequence[Items], right: Sequence[Items]) -> tuple[float, float] | None:
    """Half-widths over items below and above the difference, in standard errors; None where the items are not the same
    or never differ."""
    n = len(left[0].sums)
    weights = left[0].weights
    for i in (*left, *right):
        same = (
            i.weights is None
            if weights is None
            else i.weights is not None and len(i.weights) == n and bool(np.array_equal(i.weights, weights))
        )
        if len(i.sums) != n or not same:
            return None
    mean = sum((a.sums - b.sums for a, b in zip(left, right, strict=True)), np.zeros(n)) / len(left)
    if n < 2 or not np.any(mean != mean[0]):
        return None
    value = float(mean.sum() / (n if weights is None else weights.sum()))
    floor = normal_error(mean, weights, value)
    if n > _MOST_RESAMPLED or weights is not None:
        return floor, floor
    resampled = _draws(n) @ mean / n
    resampled.partition(_PLACES)  # np.quantile takes ten times as long
    low, high = resampled[_PLACES[0]], resampled[_PLACES[1]]
    return max((value - float(low)) / _Z, floor), max((float(high) - value) / _Z, floor)


def normal_error(differences: Array, weights: Array | None, value: float) -> float:
    """Standard error over items of a difference that is `value`: never 0, as if half an item more had spoken for each
    side."""
    n = len(differences)
    if weights is not None:
        return math.sqrt(n / (n - 1) * float(np.sum((differences - value * weights) ** 2))) / float(
            weights.sum()
        )  # Cochran 1977, equation 6.9
    size = float(
        np.abs(differences).max()
    )  # 1 for answers that are right or wrong: then the sum of squares counts the discordant items
    squares, total = float(np.sum(differences**2)) / size**2 + 1, float(differences.sum()) / size
    return size * math.sqrt(squares - total**2 / (n + 2)) / (n + 2)


@lru_cache(maxsize=4)
def _draws(n: int) -> Array:
    """(RESAMPLES, n) how often each item is drawn; the same for every comparison, so that a report can be built
    twice."""
    return np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)


def holm(values: Sequence[float]) -> tuple[float, ...]:
    """p values of one family adjusted by Holm's step-down procedure (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, running = [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = running
    return tuple(adjusted)
