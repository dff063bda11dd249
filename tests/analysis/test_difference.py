"""Intervals over seeds, over items and over both: against scipy, by hand, and by how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lorabench.analysis.difference import Difference, difference, holm, item_errors
from lorabench.record.items import Items


def test_one_seed_gives_the_percentile_bootstrap_over_items() -> None:
    draw = np.random.default_rng(1)
    a, b = (draw.random(300) < p for p in (0.7, 0.55))
    errors = item_errors([Items(a.astype(float))], [Items(b.astype(float))])
    found = difference(np.array([a.mean()]), np.array([b.mean()]), errors, 300)
    oracle = stats.bootstrap(
        (a.astype(float) - b,), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    assert found.basis == "items"
    assert found.interval == pytest.approx((oracle.low, oracle.high), abs=0.008)


def test_weighted_items_are_a_ratio_of_sums() -> None:
    draw = np.random.default_rng(2)
    tokens = draw.integers(5, 60, 200).astype(float)
    a, b = (Items(tokens * draw.normal(m, 0.3, 200), tokens) for m in (2.1, 2.0))
    low, high = item_errors([a], [b]) or (0.0, 0.0)
    each, ratio = a.sums - b.sums, a.value - b.value
    cochran = np.sqrt(200 / 199 * np.sum((each - ratio * tokens) ** 2)) / tokens.sum()  # 1977, equation 6.9
    assert (low, high) == pytest.approx((cochran, cochran), rel=0.12)


def test_both_sources_add_up_on_each_side() -> None:
    found = Difference(3, 0.1, 0.02, (0.03, 0.05))
    t, z = stats.t.ppf(0.975, 2), stats.norm.ppf(0.975)
    low, high = found.interval or (0.0, 0.0)
    assert 0.1 - low == pytest.approx(np.hypot(t * 0.02, z * 0.03))
    assert high - 0.1 == pytest.approx(np.hypot(t * 0.02, z * 0.05))


@pytest.mark.parametrize("errors", [None, (0.03, 0.03)])
def test_p_is_below_a_twentieth_exactly_where_zero_is_outside(errors: tuple[float, float] | None) -> None:
    for value in np.linspace(-0.4, 0.4, 41):
        found = Difference(4, float(value), 0.04, errors)
        low, high = found.interval or (0.0, 0.0)
        assert (found.p_value < 0.05) == (low > 0 or high < 0)  # type: ignore[operator]  # noise is known


def test_equivalence_is_two_one_sided_tests() -> None:
    each = np.array([0.004, -0.002, 0.006, 0.001, 0.003])
    found = difference(each, np.zeros(5))
    sides = [
        stats.ttest_1samp(each, -0.02, alternative="greater").pvalue,
        stats.ttest_1samp(each, 0.02, alternative="less").pvalue,
    ]
    assert found.p_equivalent(0.02) == pytest.approx(max(sides))
    assert found.p_equivalent(0.002) == 1.0
    assert found.bound("high") == pytest.approx(np.mean(each) + stats.t.ppf(0.95, 4) * stats.sem(each))


def test_items_that_are_not_the_same_cannot_be_paired() -> None:
    one, two = Items(np.ones(5)), Items(np.ones(6))
    assert item_errors([one], [two]) is None
    weighted = Items(np.ones(5), np.arange(1.0, 6.0))
    assert item_errors([one], [weighted]) is None
    assert item_errors([weighted], [Items(np.zeros(5), np.arange(2.0, 7.0))]) is None
    assert item_errors([one], [Items(np.zeros(5))]) is None, "differences that never vary say nothing of their noise"


def test_many_items_are_drawn_in_blocks_with_the_same_answer() -> None:
    draw = np.random.default_rng(5)
    a, b = Items(draw.normal(1, 1, 6000)), Items(draw.normal(0, 1, 6000))
    errors = item_errors([a], [b])
    assert errors == pytest.approx((np.sqrt(2 / 6000),) * 2, rel=0.08)
    assert errors == item_errors([a], [b])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()


@pytest.mark.parametrize("seed_noise", [0.0, 0.01, 0.05])
def test_intervals_over_seeds_and_items_cover_the_truth(seed_noise: float) -> None:
    """Other seeds and other items: accuracies of three seeds on 150 items, 400 times; a t interval over seeds alone
    covers less."""
    draw, both, seeds_alone, truth = np.random.default_rng(0), 0, 0, 0.1
    for _ in range(400):
        level, common = draw.random(150), draw.normal(0, seed_noise, 3)
        a = [(level < 0.65 + c + draw.normal(0, seed_noise)).astype(float) for c in common]
        b = [(level + draw.normal(0, 0.15, 150) < 0.55 + c).astype(float) for c in common]
        found = difference(
            np.array([x.mean() for x in a]),
            np.array([x.mean() for x in b]),
            item_errors([Items(x) for x in a], [Items(x) for x in b]),
            150,
        )
        low, high = found.interval or (0.0, 0.0)
        both += low <= truth <= high
        low, high = Difference(3, found.value, found.seed_error, None).interval or (found.value, found.value)
        seeds_alone += low <= truth <= high
    assert both / 400 > 0.93
    assert seeds_alone < both


@pytest.mark.parametrize(("n", "apart"), [(200, 0.01), (200, 0.03), (500, 0.01)])
def test_a_few_discordant_items_are_seldom_called_a_difference(n: int, apart: float) -> None:
    """Two untrained models that are equally good and differ by chance on few items; McNemar's exact test as the oracle
    of a single one."""
    draw, wrong = np.random.default_rng(4), 0
    for _ in range(400):
        signs = draw.choice([-1.0, 0.0, 1.0], n, p=[apart / 2, 1 - apart, apart / 2])
        found = Difference(
            1, float(signs.mean()), None, item_errors([Items(np.maximum(signs, 0))], [Items(np.maximum(-signs, 0))])
        )
        wrong += found.p_value is not None and found.p_value < 0.05
    assert wrong / 400 <= 0.07
    one = np.zeros(200)
    one[7] = 1.0
    alone = Difference(1, float(one.mean()), None, item_errors([Items(one)], [Items(np.zeros(200))]))
    assert alone.p_value is not None
    assert alone.p_value > 0.3, "one item of 200: McNemar's exact p is 1"
