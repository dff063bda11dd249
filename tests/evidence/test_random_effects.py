"""The mixed model, against hand calculation, DerSimonian and Laird, statsmodels, and data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from lorabench.evidence.random_effects import Prior, Rows, Variances, added, fit

FLAT = Prior(np.zeros(1), np.array([1e6]))


def rows(y, source, x=None, noise=None, setting=None, kind=None, kinds=("",), flagged=None):
    n = len(y)
    source = np.asarray(source)
    whole = Rows(
        np.asarray(y, dtype=float),
        np.ones((n, 1)) if x is None else np.asarray(x, dtype=float),
        np.zeros(n) if noise is None else np.asarray(noise, dtype=float),
        np.ones(n),
        np.zeros(n) if flagged is None else np.asarray(flagged, dtype=float),
        np.zeros(n, dtype=int) if kind is None else np.asarray(kind),
        np.arange(n) if setting is None else np.asarray(setting),
        source,
        tuple(f"s{i}" for i in range(source.max() + 1)),
        kinds,
    )
    return whole.of(np.ones(n, dtype=bool))


def test_two_sources_are_weighed_as_by_hand():
    # source 0 prints 1 and 3, source 1 prints 8; between 2, row 1: variances of their means 4 + 1/2 and 4 + 1
    found = fit(rows([1, 3, 8], [0, 0, 1]), FLAT, Variances(2.0, 1e-9, 1.0, 0.5, 1.0, (1.0,)))
    w = np.array([1 / 4.5, 1 / 5])
    assert found.mean[0] == pytest.approx((2 * w[0] + 8 * w[1]) / w.sum(), abs=1e-6)
    assert found.covariance[0, 0] == pytest.approx(1 / w.sum(), abs=1e-6)
    shares = found.shares(np.ones(1))
    assert shares["s0"] == pytest.approx(w[0] / w.sum(), abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_new_row_has_all_variances_as_by_hand():
    v = Variances(2.0, 1.0, 0.5, 0.25, 3.0, (2.0,))
    found = fit(rows([1, 3, 8], [0, 0, 1]), FLAT, v)
    one = np.ones(1)
    mean, sd, degrees = found.predict(np.ones((1, 1)), np.zeros(1, dtype=int), one, 0 * one, 8 * one)
    assert mean[0] == found.mean[0]
    assert sd[0] ** 2 == pytest.approx(4 * (4 + 1 + 0.25) + 0.25 * 8 + found.covariance[0, 0])
    assert degrees[0] == 4  # two sources and the prior's two
    _, wider, _ = found.predict(np.ones((1, 1)), np.zeros(1, dtype=int), one, one, 8 * one)
    assert wider[0] ** 2 - sd[0] ** 2 == pytest.approx((9 - 1) * 4 * 5.25)


def test_with_one_gap_a_source_it_is_dersimonian_and_laird():
    """statsmodels 0.15, combine_effects(method_re="dl") of its six effects: tau2, mean and standard error."""
    y, v = [0.10, 0.30, 0.35, 0.65, 0.45, 0.15], np.array([0.03, 0.03, 0.05, 0.01, 0.05, 0.02])
    w = 1 / v
    q = (w * (np.array(y) - (w * y).sum() / w.sum()) ** 2).sum()
    tau2 = (q - 5) / (w.sum() - (w**2).sum() / w.sum())
    assert tau2 == pytest.approx(0.039785966)
    known = Variances(np.sqrt(tau2), 1e-9, 1e-6, 1.0, 1.0, (1.0,))
    found = fit(rows(y, range(6), noise=v), FLAT, known)
    assert found.mean[0] == pytest.approx(0.34424968, abs=1e-6)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(0.10675419, abs=1e-6)


def test_with_a_moderator_it_is_statsmodels_mixed_model():
    """statsmodels 0.15, MixedLM(...).fit(reml=True): parameters at its variances, and standard errors, which it takes
    from a Hessian."""
    source = np.repeat(np.arange(6), [2, 3, 4, 5, 6, 4])
    x = [2.04, -2.56, 0.42, -0.57, -0.45, -0.22, -2.02, -0.23, -0.87, 3.32, 0.23, -0.35, -0.28, -0.67, -1.06, -0.39,
         0.48, -0.24, 0.96, -0.2, 0.02, 1.55, 0.55, -0.51]  # fmt: skip
    y = [1.39, -0.61, 2.19, 1.55, 1.36, 3.16, 0.51, 3.33, 2.02, 1.56, 0.98, 0.91, 0.37, -0.14, 0.24, 0.54, 1.7, 1.01,
         1.33, 1.21, 1.91, 2.31, 2.57, 2.04]  # fmt: skip
    known = Variances(np.sqrt(0.68154928), 1e-9, np.sqrt(0.24887846), 0.5, 1.0, (1.0,))
    flat = Prior(np.zeros(2), np.full(2, 1e6))
    found = fit(rows(y, source, np.column_stack([np.ones(24), x])), flat, known)
    assert found.mean == pytest.approx([1.42819234, 0.4661894], abs=1e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx([0.35390631, 0.09270077], rel=0.01)


def test_a_source_weighs_about_once_however_many_rows_it_prints():
    y, source = np.zeros(62), np.repeat([0, 1, 2], [60, 1, 1])
    shares = fit(rows(y, source), FLAT, Variances(1.0, 1.0, 1.0, 0.5, 1.0, (1.0,))).shares(np.ones(1))
    assert 1 < shares["s0"] / shares["s1"] < 3  # 60 rows: variance 1 + 2/60 against 1 + 2


def test_sources_that_are_added_later_count_as_if_they_had_been_there():
    v = Variances(1.0, 0.5, 0.7, 0.5, 1.0, (1.0,))
    y, source = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0, 0, 1, 2])
    prior = Prior(np.array([0.5]), np.array([2.0]))
    whole = fit(rows(y, source), prior, v)
    joined = added(fit(rows(y[:3], source[:3]), prior, v), fit(rows(y[3:], source[3:] - 2), prior, v))
    assert joined.mean == pytest.approx(whole.mean)
    assert joined.covariance == pytest.approx(whole.covariance)


def _drawn(draw, sources, between, row):
    of = np.repeat(np.arange(sources), 6)
    return 1.5 + draw.normal(0, between, sources)[of] + draw.normal(0, row, len(of)), of


@pytest.mark.slow
def test_known_variances_are_found_again_and_intervals_of_new_sources_hold():
    """Twenty sources of six settings each, between 2 and row 1, drawn twelve times."""
    draw = np.random.default_rng(0)
    found, held = [], []
    for _ in range(12):
        y, of = _drawn(draw, 20, 2.0, 1.0)
        f = fit(rows(y, of), Prior(np.zeros(1), np.array([10.0])))
        v = f.variances
        found.append((v.between * v.scales[0], np.hypot(v.within, v.row) * v.scales[0]))
        one = np.ones(1)
        mean, sd, degrees = f.predict(np.ones((1, 1)), np.zeros(1, dtype=int), one, 0 * one, 0 * one)
        from scipy.stats import t

        new = 1.5 + draw.normal(0, 2.0, 200) + draw.normal(0, 1.0, 200)
        held.append((abs(new - mean[0]) <= sd[0] * t.ppf(0.9, degrees[0])).mean())
    between, row = np.mean(found, axis=0)
    assert between == pytest.approx(2.0, rel=0.2)
    assert row == pytest.approx(1.0, rel=0.2)
    assert np.mean(held) == pytest.approx(0.8, abs=0.05)


def test_a_kind_with_one_source_is_pulled_to_the_others():
    draw = np.random.default_rng(1)
    y = np.concatenate([draw.normal(0, 1, 40), [8.0, 9.0, 7.0]])
    source = np.concatenate([np.repeat(np.arange(8), 5), [8, 8, 8]])
    kind = np.concatenate([np.zeros(40, dtype=int), [1, 1, 1]])
    x = np.column_stack([np.ones(43), kind == 0, kind == 1])
    prior = Prior(np.zeros(3), np.array([3.0, 2.0, 2.0]))
    f = fit(rows(y, source, x, kind=kind, kinds=("a", "b")), prior)
    said = f.mean[0] + f.mean[2]
    assert 1 < said < 7.5


def test_unequal_comparisons_never_spread_less_than_equal_ones():
    """Six sources of equal comparisons, of which one is far off, and one of unequal ones that lie close together: the
    spread of the one is not to make unequal comparisons weigh more."""
    draw = np.random.default_rng(3)
    of = np.repeat(np.arange(7), 8)
    wild = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 5.0, 0.2])[of]
    f = fit(rows(draw.normal(0, 1, 56) * wild, of, flagged=of == 6), Prior(np.zeros(1), np.array([3.0])))
    assert f.variances.flagged >= 1
    assert f.shares(np.ones(1))["s6"] < 1 / 7
