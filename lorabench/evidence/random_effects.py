"""A linear mixed model of gaps that were printed by sources, in settings: random effects over both, known noise, and
coefficients that are held back by priors, so that a kind of task with one source does not follow it all the way.

    y = x'b + s z (u + w) + s e + noise        b ~ N(m, P^-1)
    u ~ N(0, between^2) of a source, w ~ N(0, within^2) of a setting in it, e ~ N(0, row^2), noise ~ N(0, share v)
    s = exp(scale of the row's kind) [x flagged, at least 1]

`within` is at most `between`: the information of a source is then at most 1 / between^2, however much it prints, and
at least half of that once it prints a few settings, so that sources weigh once. Scales of kinds are themselves drawn
around their mean. The coefficients are integrated out (restricted likelihood with a proper prior: Harville 1977;
Riley et al. 2011 for the prediction interval); what remains, six numbers and a scale for each kind, maximises the
posterior. statsmodels' MixedLM knows no sampling variances and no scales, and its meta-analysis has one level and no
moderators, so this is written out; tests/evidence holds it against both where they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SCALE_SPREAD = (
    0.7  # of log scales of kinds: half lie within a factor of 1.6 of their mean, as sd over GLUE, code and MMLU do
)
SHARE_CENTER = 0.5  # of the noise of two independent scores; both are of the same items, so their errors partly cancel


@dataclass(frozen=True)
class Rows:
    """Gaps with what is known of each; every array has a row a gap, in the order of sources and settings."""

    y: Array
    x: Array
    """design"""
    noise: Array
    """known sampling variance, 0 where none is known"""
    loading: Array
    """what the effects of source and setting are multiplied by: 1, or the distance of a rank to its reference"""
    flagged: Array
    """1 where its table compares unequal things (untuned rates, a copied reference), else 0"""
    kind: npt.NDArray[np.int64]
    setting: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    sources: tuple[str, ...]
    kinds: tuple[str, ...]

    def of(self, keep: npt.NDArray[np.bool_]) -> Rows:
        """The rows that are kept; sources without any disappear."""
        left, source = np.unique(self.source[keep], return_inverse=True)
        setting = np.unique(self.setting[keep], return_inverse=True)[1]
        order = np.lexsort((setting, source))
        y, x, noise, loading, flagged = (
            a[keep][order] for a in (self.y, self.x, self.noise, self.loading, self.flagged)
        )
        kind = self.kind[keep][order]
        names = tuple(self.sources[i] for i in left)
        return Rows(y, x, noise, loading, flagged, kind, setting[order], source[order], names, self.kinds)


@dataclass(frozen=True)
class Prior:
    """Of the coefficients: means and standard deviations."""

    mean: Array
    sd: Array


@dataclass(frozen=True)
class Variances:
    """Standard deviations relative to a kind's scale, and the scales in the unit of y."""

    between: float
    within: float
    row: float
    noise_share: float
    flagged: float
    """what the scale of a flagged row is multiplied by: at least 1, since unequal things differ in more ways"""
    scales: tuple[float, ...]


@dataclass(frozen=True)
class Information:
    """What one source says of the coefficients: precision and precision times mean."""

    source: str
    precision: Array
    weighted: Array
    rows: int
    settings: int


@dataclass(frozen=True)
class Fit:
    """Coefficients given variances: their mean and covariance, and what each source brought."""

    mean: Array
    covariance: Array
    variances: Variances
    prior: Prior
    information: tuple[Information, ...]
    kinds: tuple[str, ...]
    sources_of_kind: tuple[int, ...]
    log_posterior: float | None
    """of variances that were sought, coefficients integrated out: tells designs with the same prior apart"""

    def shares(self, x: Array) -> dict[str, float]:
        """How much of what is known of x'b each source brought, and how much the prior: they sum to one."""
        at = self.covariance @ x
        total = float(x @ at)
        if total <= 0:
            return {}
        found = {i.source: float(at @ i.precision @ at) / total for i in self.information}
        return found | {"": float((at**2 / self.prior.sd**2).sum()) / total}

    def predict(
        self, x: Array, kind: npt.NDArray[np.int64], loading: Array, flagged: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        """Mean, standard deviation and degrees of freedom of new rows in a setting of a source that is not known.

        A kind's scale is known from its sources alone, so the degrees of freedom are theirs and `PRIOR_DEGREES`.
        """
        v = self.variances
        s2 = (np.asarray(v.scales)[kind] * np.where(flagged > 0, v.flagged, 1.0)) ** 2
        spread = s2 * (loading**2 * (v.between**2 + v.within**2) + v.row**2) + v.noise_share * noise
        mean_variance = np.einsum("ij,jk,ik->i", x, self.covariance, x)
        degrees = np.asarray(self.sources_of_kind, dtype=float)[kind] + PRIOR_DEGREES
        return x @ self.mean, np.sqrt(spread + mean_variance), degrees


PRIOR_DEGREES = 2.0  # those of a scale that is known within a factor of about two (SCALE_SPREAD): 1 / (2 x 0.7^2) x 2


def fit(rows: Rows, prior: Prior, variances: Variances | None = None, start: Variances | None = None) -> Fit:
    """The coefficients, at the variances given, else at those that are most probable, sought from `start`."""
    v = variances or most_probable_variances(rows, prior, start)
    precision, weighted = _by_source(rows, v)
    p = len(prior.mean)
    total = precision.sum(0) + np.diag(prior.sd**-2.0)
    covariance = np.asarray(np.linalg.inv(total), dtype=np.float64)
    mean = np.asarray(covariance @ (weighted.sum(0) + prior.mean / prior.sd**2), dtype=np.float64)
    of = np.unique(np.column_stack([rows.source, rows.setting]), axis=0)[:, 0]
    information = tuple(
        Information(name, precision[i], weighted[i], int((rows.source == i).sum()), int((of == i).sum()))
        for i, name in enumerate(rows.sources)
    )
    counts = tuple(len(np.unique(rows.source[rows.kind == k])) for k in range(len(rows.kinds)))
    assert mean.shape == (p,)
    probable = None if variances else _log_posterior(_theta(v), rows, prior)
    return Fit(mean, covariance, v, prior, information, rows.kinds, counts, probable)


def added(known: Fit, new: Fit) -> Fit:
    """What is known with the sources of `new` added, whose rows were weighed at the same variances."""
    total = known.information + new.information
    precision = np.sum([i.precision for i in total], axis=0) + np.diag(known.prior.sd**-2.0)
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    mean = covariance @ (np.sum([i.weighted for i in total], axis=0) + known.prior.mean / known.prior.sd**2)
    counts = tuple(a + b for a, b in zip(known.sources_of_kind, new.sources_of_kind, strict=True))
    return replace(known, mean=mean, covariance=covariance, information=total, sources_of_kind=counts)


def most_probable_variances(rows: Rows, prior: Prior, start: Variances | None = None) -> Variances:
    """By the marginal likelihood and the priors of `_log_prior`."""
    from scipy.optimize import minimize  # half a second to import, which an answer with known variances need not wait

    scale = float(np.log(np.std(rows.y) + 1e-6))
    first = np.concatenate([[-0.7, 0.5, -0.7, 0.0, -0.7], np.full(len(rows.kinds), scale)])

    def cost(theta: Array) -> float:
        return -_log_posterior(theta, rows, prior)

    found = minimize(cost, first if start is None else _theta(start), method="L-BFGS-B", options={"maxiter": 200})
    return _variances(found.x)


def _theta(v: Variances) -> Array:
    """Of `_variances` the inverse."""
    share, inside = (float(np.log(p / (1 - p))) for p in (v.noise_share, min(v.within / v.between, 1 - 1e-9)))
    above = np.log(max(v.flagged - 1, 1e-9))
    return np.array([np.log(v.between), inside, np.log(v.row), share, above, *np.log(v.scales)])


def _variances(theta: Array) -> Variances:
    between = float(np.exp(theta[0]))
    return Variances(
        between,
        between / (1 + float(np.exp(-theta[1]))),
        float(np.exp(theta[2])),
        1 / (1 + float(np.exp(-theta[3]))),
        1 + float(np.exp(theta[4])),
        tuple(float(s) for s in np.exp(theta[5:])),
    )


def _log_posterior(theta: Array, rows: Rows, prior: Prior) -> float:
    v = _variances(theta)
    precision, weighted, square, log_determinant = _total(rows, v)
    m = precision + np.diag(prior.sd**-2.0)
    right = weighted + prior.mean / prior.sd**2
    lower = np.linalg.cholesky(m)
    z = np.linalg.solve(lower, right)
    likelihood = -0.5 * (log_determinant + 2 * np.log(np.diag(lower)).sum() + square - z @ z)
    return float(likelihood) + _log_prior(theta)


def _log_prior(theta: Array) -> float:
    """The parts of a scale are of its own size (0.5 each, within a factor of three); scales of kinds lie around their
    mean; a flagged row spreads about 1.5 times as far (1.2 to 2.2)."""
    scales = theta[5:]
    spread = ((scales - scales.mean()) ** 2).sum() / SCALE_SPREAD**2
    parts = (theta[0] + 0.7) ** 2 + (theta[1] / 1.5) ** 2 + (theta[2] + 0.7) ** 2 + (theta[3] / 1.5) ** 2
    return -0.5 * float(spread + parts + ((theta[4] + 0.7) / 0.9) ** 2)


def _scaled(rows: Rows, v: Variances) -> tuple[Any, ...]:
    """Design and gaps over their scale, the independent variance of each row, and sums over settings and sources."""
    s = np.asarray(v.scales)[rows.kind] * np.where(rows.flagged > 0, v.flagged, 1.0)
    a = np.column_stack([rows.x, rows.y]) / s[:, None]
    d = v.row**2 + v.noise_share * rows.noise / s**2
    first = np.flatnonzero(np.diff(rows.setting, prepend=-1))
    of = rows.source[first]
    weight = np.add.reduceat(rows.loading**2 / d, first)
    t = np.add.reduceat(a * (rows.loading / d)[:, None], first)
    f = 1 / (1 + v.within**2 * weight)
    each = np.flatnonzero(np.diff(of, prepend=-1))
    h = np.add.reduceat(t * f[:, None], each)
    q = np.add.reduceat(weight * f, each)
    g = v.between**2 / (1 + v.between**2 * q)
    return s, a, d, t, of, f, h, q, g


def _total(rows: Rows, v: Variances) -> tuple[Array, Array, float, float]:
    """Precision, precision times mean, square and log determinant, of all rows: Woodbury twice, settings then
    sources."""
    s, a, d, t, _, f, h, q, g = _scaled(rows, v)
    both = (a / d[:, None]).T @ a - (t * (v.within**2 * f)[:, None]).T @ t - (h * g[:, None]).T @ h
    log_determinant = np.log(d).sum() + 2 * np.log(s).sum() - np.log(f).sum() + np.log1p(v.between**2 * q).sum()
    return both[:-1, :-1], both[:-1, -1], float(both[-1, -1]), float(log_determinant)


def _by_source(rows: Rows, v: Variances) -> tuple[Array, Array]:
    """Precision and precision times mean of each source."""
    _, a, d, t, of, f, h, _, g = _scaled(rows, v)
    n, p = len(rows.sources), a.shape[1]
    both = np.zeros((n, p, p))
    for i in range(n):
        at, among = rows.source == i, of == i
        both[i] = (a[at] / d[at, None]).T @ a[at] - (t[among] * (v.within**2 * f[among])[:, None]).T @ t[among]
        both[i] -= g[i] * np.outer(h[i], h[i])
    return both[:, :-1, :-1], both[:, :-1, -1]
