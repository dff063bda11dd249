"""Probabilities and intervals of few pairs, few items and few seeds: exact where the usual approximations mislead."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lorabench.analysis.difference import FEW_ITEMS, Difference, quantile_over_items
from lorabench.analysis.intervals import exact, half_of, half_over_items, half_over_seeds, wilson
from lorabench.analysis.rank_order import EXACT_UP_TO, spearman
from lorabench.record.result import CellResult, Reading
from lorabench.report.view import make_view
from tests.report.stores import STUDY, filled


def test_four_pairs_in_perfect_order_are_no_proof() -> None:
    """2 of 24 orders are as extreme; the t distribution says 0."""
    for theirs in ([10, 20, 30, 40], [4, 3, 2, 1]):
        found = spearman([1.0, 2.0, 3.0, 4.0], theirs)
        assert found is not None
        assert abs(found[0]) == pytest.approx(1)
        assert found[1] == pytest.approx(2 / 24)
    assert stats.spearmanr([1, 2, 3, 4], [10, 20, 30, 40]).pvalue < 1e-6


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_p_of_few_pairs_is_scipys_permutation_test(n: int, ties: bool) -> None:
    draw = np.random.default_rng(n)
    for _ in range(3):
        a, b = draw.normal(size=n), (draw.integers(0, 3, n) if ties else draw.normal(size=n)).astype(float)
        if len(set(b)) < 2:
            continue
        oracle = stats.permutation_test(
            (a,),
            lambda x, b=b: stats.spearmanr(x, b).statistic,
            permutation_type="pairings",
            n_resamples=np.inf,
            vectorized=False,
        )
        found = spearman(list(a), list(b))
        assert found is not None
        assert found[0] == pytest.approx(stats.spearmanr(a, b).statistic)
        assert found[1] == pytest.approx(oracle.pvalue)


def test_p_of_nine_pairs_is_exact_and_of_more_near_it() -> None:
    """By hand: of nine, 1 order is the same and 8 differ by one swap of neighbours; as many are reversed."""
    found = spearman(list(range(9)), [1, 0, *range(2, 9)])
    assert found is not None
    assert found[0] == pytest.approx(1 - 6 * 2 / 720)
    assert found[1] == pytest.approx(2 * (1 + 8) / math.factorial(9))
    for n in (10, 12):
        found = spearman(list(range(n)), list(range(n)))
        assert found is not None
        assert found[1] == pytest.approx(2 / math.factorial(n)), "never 0"
        noisy = [float(v) for v in np.random.default_rng(n).normal(size=n)]
        assert spearman(list(range(n)), noisy)[1] == pytest.approx(stats.spearmanr(range(n), noisy).pvalue)  # type: ignore[index]
    assert EXACT_UP_TO == 9


def test_ties_among_many_pairs_are_no_proof_either() -> None:
    """Five tied low and five high on both sides: of the 252 ways to choose five, the same and the opposite one; t says
    0."""
    for n, exactly in ((10, 2 / math.comb(10, 5)), (11, 1 / math.comb(11, 5))):
        halves = [0] * 5 + [1] * (n - 5)
        found = spearman(halves, halves)
        assert found is not None
        assert found[0] == pytest.approx(1)
        assert found[1] == pytest.approx(exactly, rel=0.25)
    a, b = [1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [2, 1, 4, 3, 3, 7, 5, 6, 12, 8, 9, 11]
    assert spearman(a, b)[1] < 0.001  # type: ignore[index]
    mixed = [float(v) for v in np.random.default_rng(3).permutation(a)]
    assert spearman(mixed, b)[1] == pytest.approx(stats.spearmanr(mixed, b).pvalue, rel=0.1), "of single ties t is near"  # type: ignore[index]


def test_chance_orders_are_called_alike_no_more_often_than_said() -> None:
    for n in (4, 5, 6):
        ps = [spearman(list(range(n)), list(order))[1] for order in itertools.permutations(range(n))]  # type: ignore[index]
        assert np.mean(np.array(ps) <= 0.05) <= 0.05
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_a_mean_over_seeds_has_a_t_interval_and_one_seed_none() -> None:
    values = [1.0, 1.4, 0.9]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert half_of(values) == pytest.approx((high - low) / 2)
    assert half_of([1.0]) is None
    assert half_of([0.35, 0.35]) is None
    assert half_over_seeds(0.1 + 0.2, 4e-17, 3) is None, "rounding is no spread"


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (1, 20), (3, 200), (2, 2)])
def test_a_share_near_its_ends_is_not_certain(right: int, n: int) -> None:
    """The normal interval of 0 of 20 is 0 ± 0; the half-width reaches the farther end of Wilson's interval."""
    p = right / n
    half = half_over_items(p, math.sqrt(p * (1 - p) / (n - 1)), n, share=True)
    oracle = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    assert half == pytest.approx(max(p - oracle.low, oracle.high - p))
    assert wilson(p, n) == pytest.approx((oracle.low, oracle.high))


def test_many_of_both_kinds_keep_the_normal_interval() -> None:
    assert half_over_items(0.4, 0.049, 100, share=True) == pytest.approx(1.959964 * 0.049)
    assert half_over_items(3.2, 0.03, None, share=False) == pytest.approx(1.959964 * 0.03)
    assert half_over_items(3.2, None, 8, share=False) is None


def test_few_sequences_have_a_t_interval() -> None:
    """Losses of eight sequences: 1.96 standard errors would hold the truth in 91 % of the samples."""
    assert half_over_items(3.2, 0.03, 8, share=False) == pytest.approx(stats.t.ppf(0.975, 7) * 0.03)
    assert quantile_over_items(FEW_ITEMS) == pytest.approx(1.959964)
    assert quantile_over_items(FEW_ITEMS - 1) == pytest.approx(stats.t.ppf(0.975, FEW_ITEMS - 2))
    found = Difference(1, 0.05, None, (0.02, 0.02), 8)
    low, high = found.interval or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.05 - stats.t.ppf(0.975, 7) * 0.02, 0.05 + stats.t.ppf(0.975, 7) * 0.02))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.05 / 0.02, 7))
    both = Difference(3, 0.1, 0.02, (0.03, 0.03), 8).interval or (0.0, 0.0)
    assert 0.1 - both[0] == pytest.approx(math.hypot(stats.t.ppf(0.975, 2) * 0.02, stats.t.ppf(0.975, 7) * 0.03))


def test_a_single_cells_interval_knows_how_many_items_it_is_over(tmp_path: Path) -> None:
    """Eight test sequences of a loss, and an accuracy of 20 items that are all right."""

    def few(r: CellResult) -> CellResult:
        acc = Reading(metric="python-docs-cloze/acc", value=1.0, stderr=0.0, count=20)
        kept = (x for x in r.readings if x.metric != "eval_loss" and not x.metric.startswith("python-docs-cloze"))
        readings = (*kept, acc, Reading(metric="eval_loss", value=2.4, stderr=0.03, count=500))
        assert r.resolved is not None
        return r.model_copy(
            update={"readings": readings, "resolved": r.resolved.model_copy(update={"test_examples": 8})}
        )

    view = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]"), few))
    for s in view.analysis.summaries:
        assert s.statistics["eval_loss"].ci_half_width == pytest.approx(stats.t.ppf(0.975, 7) * 0.03)
        assert s.statistics["python-docs-cloze/acc"].ci_half_width == pytest.approx(
            1 - stats.binomtest(20, 20).proportion_ci(0.95, "wilson").low
        )


@pytest.mark.parametrize(("n", "p"), [(5, 0.25), (12, 0.1), (30, 0.95), (60, 0.02)])
def test_intervals_of_shares_cover_the_truth(n: int, p: float) -> None:
    """Summed over all outcomes with their binomial probabilities; the normal interval covers 60 to 80 % here."""
    covered, exactly, normally = 0.0, 0.0, 0.0
    for right in range(n + 1):
        chance, share = float(stats.binom.pmf(right, n, p)), right / n
        error = math.sqrt(share * (1 - share) / (n - 1))
        half = half_over_items(share, error, n, share=True)
        assert half is not None
        low, high = exact(share, n)
        oracle = stats.binomtest(right, n).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((oracle.low, oracle.high))
        covered += chance * (abs(share - p) <= half)
        exactly += chance * (low <= p <= high)
        normally += chance * (abs(share - p) <= 1.96 * error)
    assert covered >= 0.94
    assert exactly >= 0.95
    assert normally < 0.85
