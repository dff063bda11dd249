"""The curve that is fitted over ranks: its intervals cover what was planted, and where it does not suit
there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lorabench.analysis.saturation import Fit, NoFit, saturating
from lorabench.config import Cell, expand
from tests import synthetic
from tests.analysis.ranks import RANKS, STUDY, curves_of
from tests.report.stores import study_of


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, ...]:
    return expand(study_of(tmp_path_factory.mktemp("ranks"), STUDY))


# the fit


def drawn(
    generator: np.random.Generator, c: float, a: float, b: float, noise: float, seeds: float, n: int = 3
) -> np.ndarray:
    ranks = np.array(RANKS, dtype=float)
    return (
        (c + a * ranks**-b)[:, None] + seeds * generator.normal(size=n) + noise * generator.normal(size=(len(ranks), n))
    )


def fitted(
    values: np.ndarray, falls: bool = True, halves: tuple[float | None, ...] = (), ranks: tuple[int, ...] = RANKS
) -> Fit | NoFit:
    return saturating(np.array(ranks, dtype=float), values, falls, halves)


@pytest.mark.parametrize(
    ("c", "a", "b", "noise", "seeds"), [(1.2, 0.35, 0.6, 0.01, 0.02), (0.6, -0.2, 0.8, 0.006, 0.0)]
)
def test_intervals_of_the_fit_cover_what_was_planted_as_often_as_they_say(
    c: float, a: float, b: float, noise: float, seeds: float
) -> None:
    generator, hits, fits = np.random.default_rng(2), np.zeros(3), 0
    for _ in range(200):
        fit = fitted(drawn(generator, c, a, b, noise, seeds), falls=a > 0)
        if isinstance(fit, Fit):
            fits += 1
            hits += [e.low <= truth <= e.high for e, truth in zip((fit.c, fit.a, fit.b), (c, a, b), strict=True)]  # type: ignore[operator]
    assert fits >= 194  # lack of fit rejects one in a hundred
    assert all(0.88 <= h / fits <= 0.995 for h in hits), hits / fits


def test_lack_of_fit_is_the_f_test_against_the_two_way_residual() -> None:
    values = drawn(np.random.default_rng(3), 1.2, 0.35, 0.6, 0.01, 0.05)
    fit = fitted(values)
    assert isinstance(fit, Fit)
    residual = (
        sum(
            (values[i, s] - values[i].mean() - values[:, s].mean() + values.mean()) ** 2
            for i in range(6)
            for s in range(3)
        )
        / 10
    )
    misfit = 3 * sum((values[i].mean() - fit.at(r)) ** 2 for i, r in enumerate(RANKS)) / 3
    assert fit.lack_of_fit == pytest.approx(stats.f.sf(misfit / residual, 3, 10))


def test_a_shift_of_whole_seeds_widens_the_floor_alone() -> None:
    values = drawn(np.random.default_rng(4), 1.2, 0.35, 0.6, 0.005, 0.0)
    before, after = fitted(values), fitted(values + np.array([-0.05, 0.0, 0.05]))
    assert isinstance(before, Fit) and isinstance(after, Fit)
    assert (after.b.low, after.b.high) == pytest.approx((before.b.low, before.b.high))
    assert after.lack_of_fit == pytest.approx(before.lack_of_fit)
    seeds = (values + np.array([-0.05, 0.0, 0.05])).mean(axis=0)
    own = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / math.sqrt(3)
    shape = math.sqrt(
        (before.c.high - before.c.value) ** 2
        - (stats.t.ppf(0.975, 2) * values.mean(axis=0).std(ddof=1) / math.sqrt(3)) ** 2
    )  # type: ignore[operator]
    assert after.c.high - after.c.value == pytest.approx(math.hypot(own, shape), rel=1e-4)  # type: ignore[operator]


def shaped(means: tuple[float, ...], noise: float = 0.004, n: int = 3) -> np.ndarray:
    return np.array(means)[:, None] + noise * np.random.default_rng(6).normal(size=(len(means), n))


@pytest.mark.parametrize(
    ("means", "why"),
    [
        ((2.5, 2.5, 2.5, 2.1, 2.1, 2.1), NoFit("lack of fit")),
        ((2.5, 2.3, 2.05, 2.1, 2.3, 2.5), NoFit("not monotone", (32, 4), beyond_noise=True)),
        ((2.1, 2.2, 2.3, 2.4, 2.5, 2.6), NoFit("not monotone", (32, 1), beyond_noise=True)),
        ((2.1, 2.1, 2.1, 2.1, 2.1, 2.1), NoFit("equal", beyond_noise=True)),
    ],
)
def test_what_does_not_saturate_gets_no_curve_but_a_reason(means: tuple[float, ...], why: NoFit) -> None:
    reason = fitted(shaped(means))
    assert isinstance(reason, NoFit)
    assert replace(reason, lack_of_fit=None) == why
    assert (reason.lack_of_fit is not None and reason.lack_of_fit < 0.01) == (why.reason == "lack of fit")


def test_three_ranks_and_no_common_seed_are_too_little() -> None:
    assert fitted(shaped((2.5, 2.2, 2.1)), ranks=(1, 4, 16)) == NoFit("few ranks")
    assert fitted(np.zeros((6, 0))) == NoFit("no common seed")


def test_a_floor_is_named_only_where_the_curve_has_levelled_off() -> None:
    steep, slow = (fitted(drawn(np.random.default_rng(7), 1.2, 0.4, b, 0.0005, 0.01)) for b in (0.8, 0.2))
    assert isinstance(steep, Fit) and isinstance(slow, Fit)
    assert (steep.levelled, slow.levelled) == (
        True,
        False,
    )  # to gain beyond rank 32: 1/(32^b - 1) of the gain up to it, 7 % and 100 %


def test_the_fit_of_the_synthetic_surface_names_no_floor(
    cells: tuple[Cell, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # (1 + r)^-0.5 is nearly a slow power of r: the fit passes all tests with c = 1.83, where the truth is 2.0
    monkeypatch.setattr(synthetic, "CELL_NOISE", 0.01)
    (curve,) = curves_of(cells, lambda c: synthetic.expected(c)["eval_loss"])
    assert curve.fit is not None
    assert curve.fit.c.value < synthetic.FLOOR - 0.05
    assert not curve.fit.levelled


def test_with_one_seed_the_items_errors_are_the_noise() -> None:
    values = drawn(np.random.default_rng(8), 0.6, -0.2, 0.8, 0.004, 0.0, 1)
    fit = fitted(values, falls=False, halves=(0.01,) * 6)
    assert isinstance(fit, Fit)
    assert (fit.basis, fit.seeds) == ("items", 1)
    assert fit.lack_of_fit is None, (
        "items are common to all ranks, so their error says nothing of how well a curve fits"
    )
    assert isinstance(alone := fitted(values, falls=False, halves=(0.01, None, 0.01, 0.01, 0.01, 0.01)), Fit | NoFit)
    assert isinstance(alone, NoFit) or alone.basis is None


def test_noise_that_drowns_the_floor_leaves_it_untold() -> None:
    tried = [
        (values, fitted(values))
        for i in range(20)
        for values in [drawn(np.random.default_rng(i), 1.2, 0.35, 0.15, 0.03, 0.0)]
    ]
    assert sum(isinstance(r, NoFit) and r.reason == "far" for _, r in tried) > 3
    for values, fit in tried:
        if isinstance(fit, Fit):  # what remains is narrower than what was seen, but for the seeds' part
            own = stats.t.ppf(0.975, 2) * values.mean(axis=0).std(ddof=1) / math.sqrt(3)
            assert math.sqrt((fit.c.high - fit.c.value) ** 2 - own**2) <= np.ptp(values.mean(axis=1))  # type: ignore[operator]
