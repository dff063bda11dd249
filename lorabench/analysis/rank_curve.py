"""What rank buys: the smallest rank that is as good as the best one, and the floor that a metric nears as rank grows.

Knee. A rank r is non-inferior to the best one where the one-sided 95 % bound of its paired difference is below the margin,

    bound(worse(r) - worse(best)) < margin                              (Piaggio et al. 2012, CONSORT for non-inferiority)

tested from the best rank downwards; the first that fails ends it, so each test keeps its whole 5 % and nothing is
adjusted (fixed sequence: Maurer, Hothorn and Lehmacher 1995). The knee is the last that passed. The best is the best mean
of the same data; its luck makes the others look worse than they are, so a knee errs to the high side.

Fit. y(r) = c + a r^-b with b > 0 (the shape of neural scaling laws: Hestness et al. 2017, arXiv:1712.00409), least squares by
scipy.optimize.curve_fit, whose covariance is linearised at the solution. With k ranks and n seeds, of the two-way table

    s^2  = sum (y_rs - mean_r - mean_s + mean)^2 / ((k-1)(n-1))         residual: seeds shift all ranks alike (Scheffe 1959, ch. 4)
    half = t((k-1)(n-1)) * standard error at sigma = s / sqrt(n)        of a and b
    half = hypot(that, t(n-1) * sd(mean_s) / sqrt(n))                   of c, which seeds shift (Zou and Donner 2008, equation 4)
    p    = P(F(k-3, (k-1)(n-1)) > chi^2 / (k-3)),  chi^2 = n sum (mean_r - y(r))^2 / s^2        lack of fit (Draper and Smith 1998, 2.1)

chi squared itself where sigma is known beforehand: with one seed it is the items' error of each reading, or nothing.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from lorabench.analysis.aggregate import Summary
from lorabench.analysis.compare import margin_of
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import CONFIDENCE
from lorabench.analysis.pairing import Pairing
from lorabench.record.metrics import metric as described
from lorabench.spec.identity import canonical_json
from lorabench.spec.settings import ComparisonSpec

Array = NDArray[np.float64]
FEWEST = 4  # ranks that a curve of three parameters is fitted to
MISFIT = 0.01  # p below which a curve does not fit, or is not monotone
_EXPONENTS = (0.02, 8.0)
_TAIL = (1 + CONFIDENCE) / 2
_SAME = 1e-12


@dataclass(frozen=True)
class Point:
    """One rank of a family."""

    rank: int
    condition: str
    mean: float
    half: float | None
    """half-width of its 95 % interval"""
    n: int
    """finished replicates"""
    whole: bool
    """whether no replicate broke"""


@dataclass(frozen=True)
class Step:
    """A rank against the best."""

    rank: int
    bound: float | None
    """how much worse it may be: one-sided 95 % bound"""
    seeds: int
    why: str = ""
    """why there is no bound"""


@dataclass(frozen=True)
class Knee:
    """The smallest rank that is non-inferior to the best."""

    rank: int | None
    margin: float | None
    passed: tuple[Step, ...] = ()
    """by falling rank; none where the knee is the best itself"""
    failed: Step | None = None
    """the rank that ended the sequence"""
    why: str = ""
    """why nothing can be said"""


@dataclass(frozen=True)
class Estimate:
    """A parameter with its 95 % interval, where noise is known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Fit:
    """y(r) = c + a r^-b."""

    c: Estimate
    """what the metric nears as rank grows"""
    a: Estimate
    b: Estimate
    lack_of_fit: float | None
    """p that points from this curve lie so far from it; None where no noise is known"""
    basis: Literal["seeds", "items"] | None
    """what the intervals speak for"""
    seeds: int

    def at(self, rank: float) -> float:
        """The curve's value."""
        return self.c.value + self.a.value * float(rank) ** -self.b.value


@dataclass(frozen=True)
class RankCurve:
    """One family in one metric."""

    metric: str
    family: str
    points: tuple[Point, ...]
    """by rising rank, two or more"""
    best: int | None
    """the rank of best mean among those that no replicate of broke"""
    knee: Knee
    fit: Fit | None
    unfitted: str
    """why there is no fit"""

    @property
    def at_the_edge(self) -> bool:
        """Whether the best rank is the highest, so that a higher one may do better."""
        return self.best == self.points[-1].rank


def rank_curves(
    groups: Sequence[Replicates], summaries: Sequence[Summary], pairing: Pairing, metric: str, rules: ComparisonSpec
) -> tuple[RankCurve, ...]:
    """A curve for each family that has the metric at two ranks or more, in the study's order."""
    known = {s.condition: s for s in summaries}
    made = []
    for members in families(groups, known):
        points = []
        for g in members:
            s, rank = known[g.condition], g.setting.method.rank
            if rank is not None and (found := s.statistics.get(metric)) is not None:
                points.append(Point(rank, g.condition, found.mean, found.half, found.n, s.comparable))
        if len(points) > 1:
            made.append(_curve(metric, _name(members, known), tuple(sorted(points, key=lambda p: p.rank)), pairing, rules))
    return tuple(made)


def apart_from(group: Replicates, *fields: str) -> str:
    """What a condition is but for these fields, as a key; model and data count by their bytes, too."""
    plain = group.declared
    for field in fields:
        *parents, last = field.split(".")
        part: dict[str, Any] = plain
        for parent in parents:
            part = part[parent]
        part.pop(last, None)
    marks = group.setting.fingerprints
    return canonical_json([plain, marks.model, marks.data])


def families(groups: Sequence[Replicates], summaries: Mapping[str, Summary]) -> tuple[tuple[Replicates, ...], ...]:
    """Conditions that differ in rank, and in an alpha that may follow it; one condition for each rank of a family."""
    similar: dict[str, list[Replicates]] = {}
    for g in groups:
        if g.setting.method.rank is not None:
            similar.setdefault(apart_from(g, "method.rank", "method.alpha"), []).append(g)
    parts = [part for members in similar.values() for part in _one_for_each_rank(members)]
    left: dict[str, list[Replicates]] = {}  # what else follows the rank (a learning rate) is in no label
    for part in parts:
        if len(part) == 1:
            left.setdefault(summaries[part[0].condition].label.family, []).extend(part)
    place = {g.condition: i for i, g in enumerate(groups)}
    made = [*(p for p in parts if len(p) > 1), *left.values()]
    return tuple(tuple(p) for p in sorted(made, key=lambda p: min(place[g.condition] for g in p)))


def _one_for_each_rank(members: list[Replicates]) -> list[list[Replicates]]:
    """All of them, or a part for each alpha, or for each alpha / rank where that makes fewer."""
    if len({g.setting.method.rank for g in members}) == len(members):
        return [members]
    ways: list[dict[float, list[Replicates]]] = [{}, {}]
    for g in members:
        rank, alpha = g.setting.method.rank or 1, g.setting.method.alpha or 0.0
        ways[0].setdefault(alpha, []).append(g)
        ways[1].setdefault(alpha / rank, []).append(g)
    return list(min(ways, key=len).values())


def _name(members: Sequence[Replicates], summaries: Mapping[str, Summary]) -> str:
    """The label's family; where alpha stands in it and follows the rank, what all have in common."""
    names = [summaries[g.condition].label.family for g in members]
    if len(set(names)) == 1:
        return names[0]
    common = [piece for piece in names[0].split(", ") if all(piece in n.split(", ") for n in names)] or names[:1]
    ratios = {(g.setting.method.alpha or 0.0) / (g.setting.method.rank or 1) for g in members}
    return ", ".join([*common, *([f"alpha={ratios.pop():g} r"] if len(ratios) == 1 else [])])


def _curve(metric: str, family: str, points: tuple[Point, ...], pairing: Pairing, rules: ComparisonSpec) -> RankCurve:
    tables = {p.rank: pairing.seeds(metric, p.condition) for p in points}
    best = _best(points, tables, described(metric).better)
    shared = sorted(set.intersection(*(set(t) for t in tables.values())))
    found: Fit | str = "the metric has no direction"
    if best is not None:
        found = saturating(
            np.array([p.rank for p in points], dtype=np.float64),
            np.array([[tables[p.rank][s] for s in shared] for p in points], dtype=np.float64).reshape(len(points), -1),
            described(metric).better == "lower",
            [p.half for p in points],
        )
    fit, why = (None, found) if isinstance(found, str) else (found, "")
    return RankCurve(metric, family, points, best.rank if best else None, _knee(metric, points, best, pairing, rules), fit, why)


def _best(points: Sequence[Point], tables: Mapping[int, Mapping[int, float]], better: str) -> Point | None:
    """Over the seeds that all whole ranks share, since another seed shifts the mean; the lowest rank of equal ones."""
    able = [p for p in points if p.whole]
    if better == "none" or not able:
        return None
    shared = set.intersection(*(set(tables[p.rank]) for p in able))
    sign = 1 if better == "lower" else -1

    def score(p: Point) -> float:
        return sign * (float(np.mean([tables[p.rank][s] for s in sorted(shared)])) if shared else p.mean)

    return min(able, key=lambda p: (score(p), p.rank))


def _knee(metric: str, points: Sequence[Point], best: Point | None, pairing: Pairing, rules: ComparisonSpec) -> Knee:
    margin = margin_of(metric, rules)
    if margin is None:
        return Knee(None, None, why="there is no margin for this metric")
    if best is None:
        return Knee(None, margin, why="no rank finished whole")
    if best.n < 2:
        return Knee(None, margin, why="with one seed it is unknown how far a repetition would land")
    passed: list[Step] = []
    for p in reversed([p for p in points if p.rank < best.rank]):
        step = _step(metric, p, best, pairing)
        if step.bound is None or step.bound >= margin:
            return Knee(passed[-1].rank if passed else best.rank, margin, tuple(passed), step)
        passed.append(step)
    return Knee(passed[-1].rank if passed else best.rank, margin, tuple(passed))


def _step(metric: str, p: Point, best: Point, pairing: Pairing) -> Step:
    d = pairing.difference(metric, p.condition, best.condition)
    pairs = 0 if d is None else d.pairs
    if not p.whole:
        return Step(p.rank, None, pairs, "not all of its runs finished")
    if d is None or pairs < 2:
        return Step(p.rank, None, pairs, "it shares fewer than two seeds with the best")
    bound = d.bound("high") if described(metric).better == "lower" else d.bound("low")
    if bound is None:
        return Step(p.rank, None, pairs, "its difference does not vary over seeds, so its noise is unknown")
    return Step(p.rank, bound if described(metric).better == "lower" else -bound, pairs)


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
        return float(special.chdtrc(n, squares) if math.isinf(self.freedom) else special.fdtrc(n, self.freedom, squares / n))

    def above(self, distance: float) -> float:
        """One-sided p of a deviation in units of sigma."""
        return float(special.ndtr(-distance) if math.isinf(self.freedom) else special.stdtr(self.freedom, -distance))

    @property
    def factor(self) -> float:
        return float(special.ndtri(_TAIL) if math.isinf(self.freedom) else special.stdtrit(self.freedom, _TAIL))


def saturating(ranks: Array, values: Array, falls: bool, halves: Sequence[float | None] = ()) -> Fit | str:
    """The fit to values (ranks, seeds), or why there is none; `halves` are 95 % half-widths over items, of use with one seed."""
    k, n = values.shape
    if k < FEWEST:
        return f"a curve is fitted to {FEWEST} ranks or more"
    if n == 0:
        return "the ranks share no seed"
    means, noise = values.mean(axis=1), _noise(values, halves)
    return _unsuited(ranks, means, noise, falls) or _fitted(ranks, means, noise, falls, n)


def _noise(values: Array, halves: Sequence[float | None]) -> _Noise:
    k, n = values.shape
    if n > 1:
        residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        freedom = (k - 1) * (n - 1)
        s = math.sqrt(float(np.sum(residual**2)) / freedom)
        shift = float(special.stdtrit(n - 1, _TAIL)) * float(np.std(values.mean(axis=0), ddof=1)) / math.sqrt(n)
        known = s > _SAME * float(np.max(np.abs(values)))
        return _Noise(np.full(k, s / math.sqrt(n)) if known else None, freedom, shift, "seeds" if known else None)
    errors = np.array([0.0 if h is None else h for h in halves]) / float(special.ndtri(_TAIL))
    known = len(errors) == k and bool(np.all(errors > 0))
    return _Noise(errors if known else None, math.inf, 0.0, "items" if known else None)


def _unsuited(ranks: Array, means: Array, noise: _Noise, falls: bool) -> str:
    """Why no saturating curve is asked for; empty where one may be."""
    worse = means if falls else -means
    sigma = noise.sigma if noise.sigma is not None else np.zeros(len(means))
    if noise.sigma is not None:
        weights = sigma**-2
        squares = float(np.sum(weights * (means - np.average(means, weights=weights)) ** 2))
        if noise.exceeds(squares, len(means) - 1) > 1 - CONFIDENCE:
            return "the ranks do not differ beyond noise"
    pairs = list(itertools.combinations(range(len(means)), 2))
    for i, j in sorted(pairs, key=lambda p: worse[p[0]] - worse[p[1]]):
        rise, spread = float(worse[j] - worse[i]), math.hypot(sigma[i], sigma[j])
        if rise > 0 and (not spread or len(pairs) * noise.above(rise / spread) < MISFIT):
            return f"rank {ranks[j]:g} is worse than rank {ranks[i]:g}" + (" beyond noise" if spread else "")
    return "" if np.ptp(means) > 0 else "the ranks do not differ"


def _fitted(ranks: Array, means: Array, noise: _Noise, falls: bool, n: int) -> Fit | str:
    middle = math.exp(float(np.mean(np.log(ranks))))  # a is fitted as the gain there, which keeps the problem well conditioned
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
                curve, x, means, _start(x, means, sign), noise.sigma, absolute_sigma=True, bounds=([-np.inf, 0, low], [np.inf, np.inf, high]), jac=slopes, max_nfev=2000
            )
    except (RuntimeError, ValueError, optimize.OptimizeWarning):
        return "no parameters were found that fit"
    p = None
    if noise.sigma is not None:
        p = noise.exceeds(float(np.sum(((means - curve(x, c, a, b)) / noise.sigma) ** 2)), len(ranks) - 3)
        if p < MISFIT:
            return f"no saturating curve fits (lack of fit p = {p:.1g})"
    if b > 0.999 * high:
        return "all is gained at the lowest ranks, so the exponent cannot be told"
    if b < 1.01 * low:
        return "it changes with the logarithm of the rank and no floor is in sight" if falls else "it changes with the logarithm of the rank and no ceiling is in sight"
    halves: list[float] | None = None
    gain = np.array([0.0, middle**b, a * middle**b * math.log(middle)])  # d (a middle^b) / d (c, a, b)
    if noise.sigma is not None:
        errors = [noise.factor * math.sqrt(v) for v in (covariance[0, 0], float(gain @ covariance @ gain), covariance[2, 2])]
        if not errors[0] <= np.ptp(means):
            return f"its {'floor' if falls else 'ceiling'} lies too far beyond these ranks to be told"
        halves = [math.hypot(errors[0], noise.shift), *errors[1:]]
    c_, a_, b_ = (
        Estimate(float(v), None if halves is None else float(v) - halves[i], None if halves is None else float(v) + halves[i])
        for i, v in enumerate((c, sign * a * middle**b, b))
    )
    return Fit(c_, a_, b_, p, noise.basis, n)


def _start(x: Array, means: Array, sign: float) -> tuple[float, float, float]:
    """The best of a grid of exponents, for each of which c and a follow by linear least squares."""
    made = []
    for b in np.geomspace(2 * _EXPONENTS[0], _EXPONENTS[1] / 2, 40):
        basis = np.stack([np.ones_like(x), sign * np.exp(-b * x)], axis=1)
        (c, a), *_ = np.linalg.lstsq(basis, means)
        made.append((float(np.sum((basis @ (c, a) - means) ** 2)) if a > 0 else math.inf, float(c), max(float(a), 1e-9), float(b)))
    return min(made)[1:]
