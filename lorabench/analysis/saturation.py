"""The floor or ceiling that a metric nears as rank grows: a saturating curve through the means of each rank.

    y(r) = c + a r^-b,  b > 0           the shape of neural scaling laws (Hestness et al. 2017, arXiv:1712.00409)

by scipy.optimize.curve_fit, whose covariance is linearised at the solution. With k ranks and n seeds, of the two-way
table

    s^2  = sum (y_rs - mean_r - mean_s + mean)^2 / ((k-1)(n-1))
         residual: seeds shift all ranks alike (Scheffe 1959, ch. 4)
    half = t((k-1)(n-1)) * standard error at sigma = s / sqrt(n)        of a and b
    half = hypot(that, t(n-1) * sd(mean_s) / sqrt(n))                   of c, which seeds shift (Zou and Donner 2008,
                                                                        equation 4)
    p    = P(F(k-3, (k-1)(n-1)) > chi^2 / (k-3)),  chi^2 = n sum (mean_r - y(r))^2 / s^2
         lack of fit (Draper and Smith 1998, 2.1)

chi squared itself where sigma is known beforehand: with one seed it is the items' error of each reading, or nothing. No
curve where the ranks do not differ (F at 5 %), where a higher one is worse than a lower one (t at 1 %, Bonferroni over
the pairs), where lack of fit has p < 0.01, or where c's standard error leaves it further off than the ranks span. c
itself is an extrapolation that stands and falls with the formula: it is to be named only where the curve has levelled
off, which is where less is left to gain beyond the highest rank than half of what was gained up to it, at the lower end
of b's interval.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from lorabench.analysis.difference import CONFIDENCE, SAME

Array = NDArray[np.floating]
FEWEST = 4  # ranks that a curve of three parameters is fitted to
MISFIT = 0.01  # p below which a curve does not fit, or is not monotone
_EXPONENTS = (0.02, 8.0)
_LEFT = 0.5
_TAIL = (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class ParameterEstimate:
    """A parameter with its 95 % interval, where noise is known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Fit:
    """y(r) = c + a r^-b."""

    c: ParameterEstimate
    """what the metric nears as rank grows"""
    a: ParameterEstimate
    b: ParameterEstimate
    lack_of_fit: float | None
    """p that points from this curve lie so far from it; None where no noise is known"""
    basis: Literal["seeds", "items"] | None
    """what the intervals speak for"""
    seeds: int
    levelled: bool
    """whether c is near enough to be named"""

    def at(self, rank: float) -> float:
        """The curve's value."""
        return self.c.value + self.a.value * math.exp(-self.b.value * math.log(rank))


@dataclass(frozen=True)
class NoFit:
    """Why there is no curve."""

    reason: Literal[
        "no direction",  # neither more nor less of the metric is better
        "no complete rank",  # each has a cell that did not finish
        "few ranks",  # than FEWEST
        "no common seed",
        "equal",  # the ranks do not differ, beyond noise where it is known
        "not monotone",
        "not converged",
        "lack of fit",
        "steep",  # all is gained at the lowest ranks, so that b is unknown
        "logarithmic",  # b is near 0
        "far",  # c is further off than the ranks span
    ]
    ranks: tuple[int, int] | None = None
    """not monotone: the rank that is worse, and the one that it is worse than"""
    beyond_noise: bool = False
    """equal, not monotone: whether noise is known"""
    lack_of_fit: float | None = None
    """lack of fit: its p"""


def saturating(ranks: Array, values: Array, falls: bool, halves: Sequence[float | None] = ()) -> Fit | NoFit:
    """The fit to values (ranks, seeds), or why there is none; `halves` are 95 % half-widths over items, of use with one
    seed."""
    k, n = values.shape
    if k < FEWEST:
        return NoFit("few ranks")
    if n == 0:
        return NoFit("no common seed")
    means, noise = values.mean(axis=1), _noise(values, halves)
    return _unsuited(ranks, means, noise, falls) or _fitted(ranks, means, noise, falls, n)


@dataclass(frozen=True)
class _Noise:
    """Of the mean of each rank; sigma is absent where nothing is known."""

    sigma: Array | None
    freedom: float
    """degrees of freedom of sigma; infinite where it is no estimate from these values"""
    shift: float
    """half-width of what moves all ranks alike"""
    basis: Literal["seeds", "items"] | None

    def exceeds(self, squares: float, n: int) -> float:
        """p that n squared deviations in units of sigma sum to so much."""
        return float(
            special.chdtrc(n, squares) if math.isinf(self.freedom) else special.fdtrc(n, self.freedom, squares / n)
        )

    def above(self, distance: float) -> float:
        """One-sided p of a deviation in units of sigma."""
        return float(special.ndtr(-distance) if math.isinf(self.freedom) else special.stdtr(self.freedom, -distance))

    @property
    def factor(self) -> float:
        return float(special.ndtri(_TAIL) if math.isinf(self.freedom) else special.stdtrit(self.freedom, _TAIL))


def _noise(values: Array, halves: Sequence[float | None]) -> _Noise:
    k, n = values.shape
    if n > 1:
        residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        freedom = (k - 1) * (n - 1)
        s = math.sqrt(float(np.sum(residual**2)) / freedom)
        shift = float(special.stdtrit(n - 1, _TAIL)) * float(np.std(values.mean(axis=0), ddof=1)) / math.sqrt(n)
        varies = s > SAME * float(np.max(np.abs(values)))
        return _Noise(np.full(k, s / math.sqrt(n)) if varies else None, freedom, shift, "seeds" if varies else None)
    errors = np.array([0.0 if h is None else h for h in halves]) / float(special.ndtri(_TAIL))
    varies = len(errors) == k and bool(np.all(errors > 0))
    return _Noise(errors if varies else None, math.inf, 0.0, "items" if varies else None)


def _unsuited(ranks: Array, means: Array, noise: _Noise, falls: bool) -> NoFit | None:
    """Why no saturating curve is asked for; None where one may be."""
    worse = means if falls else -means
    sigma = noise.sigma if noise.sigma is not None else np.zeros(len(means))
    if noise.sigma is not None:
        weights = sigma**-2
        squares = float(np.sum(weights * (means - np.average(means, weights=weights)) ** 2))
        if noise.exceeds(squares, len(means) - 1) > 1 - CONFIDENCE:
            return NoFit("equal", beyond_noise=True)
    pairs = list(itertools.combinations(range(len(means)), 2))
    for i, j in sorted(pairs, key=lambda p: worse[p[0]] - worse[p[1]]):
        rise, spread = float(worse[j] - worse[i]), math.hypot(sigma[i], sigma[j])
        if rise > 0 and (not spread or len(pairs) * noise.above(rise / spread) < MISFIT):
            return NoFit("not monotone", (int(ranks[j]), int(ranks[i])), beyond_noise=bool(spread))
    return None if np.ptp(means) > 0 else NoFit("equal")


def _fitted(ranks: Array, means: Array, noise: _Noise, falls: bool, n: int) -> Fit | NoFit:
    middle = math.exp(
        float(np.mean(np.log(ranks)))
    )  # a is fitted as the gain there, which keeps the problem well conditioned
    x, sign = np.log(ranks / middle), 1.0 if falls else -1.0

    def curve(x: Array, c: float, a: float, b: float) -> Array:
        return np.asarray(c + sign * a * np.exp(-b * x))

    def slopes(x: Array, c: float, a: float, b: float) -> Array:
        e = sign * np.exp(-b * x)
        return np.stack([np.ones_like(x), e, -a * x * e], axis=1)

    low, high = _EXPONENTS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", optimize.OptimizeWarning)
            (c, a, b), covariance = optimize.curve_fit(
                curve,
                x,
                means,
                _start(x, means, sign),
                noise.sigma,
                absolute_sigma=True,
                bounds=([-np.inf, 0, low], [np.inf, np.inf, high]),
                jac=slopes,
                max_nfev=2000,
            )
    except (RuntimeError, ValueError, optimize.OptimizeWarning):
        return NoFit("not converged")
    p = None
    if noise.sigma is not None:
        p = noise.exceeds(float(np.sum(((means - curve(x, c, a, b)) / noise.sigma) ** 2)), len(ranks) - 3)
        if p < MISFIT:
            return NoFit("lack of fit", lack_of_fit=p)
    if b > 0.999 * high:
        return NoFit("steep")
    if b < 1.01 * low:
        return NoFit("logarithmic")
    halves: list[float] | None = None
    gain = np.array([0.0, middle**b, a * middle**b * math.log(middle)])  # d (a middle^b) / d (c, a, b)
    if noise.sigma is not None:
        errors = [
            noise.factor * math.sqrt(v) for v in (covariance[0, 0], float(gain @ covariance @ gain), covariance[2, 2])
        ]
        if not errors[0] <= np.ptp(means):
            return NoFit("far")
        halves = [math.hypot(errors[0], noise.shift), *errors[1:]]
    c_, a_, b_ = (
        ParameterEstimate(
            float(v), None if halves is None else float(v) - halves[i], None if halves is None else float(v) + halves[i]
        )
        for i, v in enumerate((c, sign * a * middle**b, b))
    )
    slowest = b if b_.low is None else max(b_.low, low)  # the exponent may be as small as that
    left = 1 / (float(ranks.max() / ranks.min()) ** slowest - 1)  # of the gain up to the highest rank
    # items are common to all ranks, so that their error says nothing of how well a curve fits
    return Fit(c_, a_, b_, None if noise.basis == "items" else p, noise.basis, n, left < _LEFT)


def _start(x: Array, means: Array, sign: float) -> tuple[float, float, float]:
    """The best of a grid of exponents, for each of which c and a follow by linear least squares."""
    fits = []
    for b in np.geomspace(2 * _EXPONENTS[0], _EXPONENTS[1] / 2, 40):
        basis = np.stack([np.ones_like(x), sign * np.exp(-b * x)], axis=1)
        (c, a), *_ = np.linalg.lstsq(basis, means)
        fits.append(
            (
                float(np.sum((basis @ (c, a) - means) ** 2)) if a > 0 else math.inf,
                float(c),
                max(float(a), 1e-9),
                float(b),
            )
        )
    return min(fits)[1:]
