"""Alignment with the base, intruder dimensions, repair, and similarity of subspaces, each computed a second way."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorabench.spectra.alignment import align, intruders, leading_values, repair
from lorabench.spectra.decompose import decompose_dense, decompose_factors
from lorabench.spectra.delta import of_factors, of_weights
from lorabench.spectra.subspace import mean, phi, similarity


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=generator(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(gaussian(rows, columns, seed)).Q


def test_the_four_norms_of_table_7_by_dense_matrices():
    weight, change = gaussian(30, 20, 1), 0.1 * gaussian(30, 4, 2) @ gaussian(4, 20, 3)
    found = align(decompose_dense(change), 4, weight)
    u, _, vh = np.linalg.svd(change.numpy())
    own_u, _, own_vh = np.linalg.svd(weight.numpy())
    assert found.base_norm == pytest.approx(np.linalg.norm(weight))
    assert found.change_norm == pytest.approx(np.linalg.norm(change))
    assert found.projected_norm == pytest.approx(np.linalg.norm(u[:, :4].T @ weight.numpy() @ vh[:4].T))
    assert found.projected_own == pytest.approx(np.linalg.norm(own_u[:, :4].T @ weight.numpy() @ own_vh[:4].T))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        a, b = (scipy.linalg.qr(rng.standard_normal((n, 4)), mode="economic")[0] for n in (30, 20))
        drawn.append(np.linalg.norm(a.T @ weight.numpy() @ b) ** 2)
    assert found.projected_random**2 == pytest.approx(np.mean(drawn), rel=0.05)


def test_a_change_along_the_bases_own_directions_is_not_amplified_and_one_across_it_is():
    u, v = orthonormal(40, 10, 1), orthonormal(40, 10, 2)
    weight = u[:, :5] @ torch.diag(torch.linspace(5, 1, 5, dtype=torch.float64)) @ v[:, :5].T
    along, across = decompose_dense(0.1 * weight), decompose_dense(u[:, 5:7] @ v[:, 5:7].T)
    found = align(along, 5, weight)
    assert found.projected_norm == pytest.approx(found.base_norm)
    assert found.change_norm / found.projected_norm == pytest.approx(0.1)
    assert align(across, 2, weight).projected_norm == pytest.approx(0, abs=1e-12)


def test_a_zero_change_has_no_directions():
    found = align(decompose_factors(torch.randn(4, 10), torch.zeros(8, 4), 1.0), 0, gaussian(8, 10))
    assert (found.rank, found.projected_norm, found.projected_own, found.projected_random) == (0, 0, 0, 0)


def test_planted_intruders_are_counted_with_their_energy():
    """W + delta of known singular vectors: two of the first ten are new, and hold a known share of all energy."""
    u, v = orthonormal(60, 22, 1), orthonormal(50, 22, 2)
    values = torch.linspace(20, 1, 20, dtype=torch.float64)
    weight = (u[:, :20] * values) @ v[:, :20].T
    change = 30 * u[:, 20:21] @ v[:, 20:21].T + 25 * u[:, 21:22] @ v[:, 21:22].T
    found = intruders(of_weights("m", weight, weight + change), weight)
    assert (found.count, found.looked_at, found.threshold) == (2, 10, 0.5)
    assert found.energy_share == pytest.approx((30**2 + 25**2) / (30**2 + 25**2 + float(values.square().sum())))
    low = of_factors("m", 0.1 * v[:, 20:21].T, u[:, 20:21], 1.0)
    assert intruders(low, weight).count == 0, "a change below the first ten is not looked at"


@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 30), threshold=st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_intruders_as_algorithm_1_says_them(seed, size, threshold):
    weight, change = gaussian(24, 18, seed), size * gaussian(24, 2, seed + 1) @ gaussian(2, 18, seed + 2)
    found = intruders(of_weights("m", weight, weight + change), weight, 8, threshold)
    u0 = np.linalg.svd(weight.numpy(), full_matrices=False)[0]
    u1, s1, _ = np.linalg.svd((weight + change).numpy(), full_matrices=False)
    new = [j for j in range(8) if all(abs(float(u0[:, i] @ u1[:, j])) < threshold for i in range(u0.shape[1]))]
    assert found.count == len(new)
    assert found.energy_share == pytest.approx(sum(s1[j] ** 2 for j in new) / (s1**2).sum())


def test_the_perfect_repair_is_called_so_and_its_opposite_too():
    weight, error = gaussian(16, 12, 1), 0.1 * gaussian(16, 3, 2) @ gaussian(3, 12, 3)
    undone = repair(decompose_dense(-error), 3, weight, weight + error)
    assert undone.cosine == pytest.approx(1)
    assert undone.repaired_share == pytest.approx(1)
    assert undone.best_share == pytest.approx(1)
    worse = repair(decompose_dense(error), 3, weight, weight + error)
    assert worse.cosine == pytest.approx(-1)
    assert worse.repaired_share == pytest.approx(-3), "twice the error is four times its energy"
    assert repair(decompose_dense(error), 3, weight, weight) is None
    nothing = repair(decompose_factors(torch.ones(2, 12), torch.zeros(16, 2), 1.0), 0, weight, weight + error)
    assert (nothing.cosine, nothing.repaired_share, nothing.best_share) == (0, 0, 0)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_no_change_of_that_rank_repairs_more_than_the_best(seed, rank):
    weight, error = gaussian(16, 12, seed), gaussian(16, 12, seed + 1)
    tried = decompose_dense(-error + 0.5 * gaussian(16, 12, seed + 2)).truncated(rank)
    found = repair(tried, rank, weight, weight + error)
    left = float((error + tried.dense()).square().sum() / error.square().sum())
    assert found.repaired_share == pytest.approx(1 - left)
    assert found.repaired_share <= found.best_share + 1e-9
    assert repair(
        decompose_dense(-error).truncated(rank), rank, weight, weight + error
    ).repaired_share == pytest.approx(found.best_share)


def test_first_values_beyond_exact_are_near(monkeypatch):
    monkeypatch.setattr("lorabench.spectra.alignment.EXACT", 16)
    matrix = gaussian(1536, 1200)
    exact = torch.linalg.eigvalsh(matrix.T @ matrix).flip(0).sqrt()
    for rank in (1, 8, 64):
        torch.testing.assert_close(leading_values(matrix, rank), exact[:rank], rtol=1e-2, atol=0)


@given(seed=st.integers(0, 10**6), n=st.integers(4, 40), i=st.integers(1, 4), j=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_phi_is_the_mean_squared_cosine_of_the_principal_angles(seed, n, i, j):
    u, v = orthonormal(n, i, seed), orthonormal(n, j, seed + 1)
    table = phi(u, v)
    for a in range(1, i + 1):
        for b in range(1, j + 1):
            angles = scipy.linalg.subspace_angles(u[:, :a].numpy(), v[:, :b].numpy())
            assert float(table[a - 1, b - 1]) == pytest.approx(float(np.mean(np.cos(angles) ** 2)), abs=1e-9)


def factors(rank, seed, rows=50, columns=40):
    return gaussian(rank, columns, seed), gaussian(rows, rank, seed + 1)


def test_a_subspace_is_like_itself_and_a_smaller_one_lies_in_it():
    change = decompose_factors(*factors(6, 1), 2.0)
    found = similarity("m", change, change, (6, 6))
    for side in ("left", "right"):
        assert found.whole(side) == pytest.approx(1)
        torch.testing.assert_close(torch.diagonal(getattr(found, side)), torch.ones(6, dtype=torch.float64))
    part = similarity("m", change.truncated(2), change, (2, 6))
    assert float(part.right[1, 5]) == pytest.approx(1)


def test_independent_changes_are_near_the_random_baseline():
    whole, baseline = [], None
    for seed in range(60):
        found = similarity(
            "m",
            decompose_factors(*factors(4, 10 * seed), 1.0),
            decompose_factors(*factors(6, 10 * seed + 5), 1.0),
            (4, 6),
        )
        whole.append((found.whole("left"), found.whole("right")))
        baseline = (found.random("left"), found.random("right"))
    assert baseline == (6 / 50, 6 / 40)
    assert np.mean(whole, axis=0) == pytest.approx(baseline, rel=0.1)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_similarity_knows_no_rotation_of_the_factors(seed):
    """B R^T (R A) is the same change, and so is B M^-1 (M A) for any invertible M."""
    (a, b), (a2, b2) = factors(4, seed), factors(4, seed + 7)
    rotation = orthonormal(4, 4, seed + 3)
    mixing = gaussian(4, 4, seed + 4) + 4 * torch.eye(4, dtype=torch.float64)
    other = decompose_factors(a2, b2, 1.0)
    plain = similarity("m", decompose_factors(a, b, 1.0), other, (4, 4))
    for m, inverse in ((rotation, rotation.T), (mixing, torch.linalg.inv(mixing))):
        turned = similarity("m", decompose_factors(m @ a, b @ inverse, 1.0), other, (4, 4))
        torch.testing.assert_close(turned.left, plain.left, rtol=0, atol=1e-6)
        torch.testing.assert_close(turned.right, plain.right, rtol=0, atol=1e-6)


def test_means_over_modules_of_several_ranks_leave_none_out():
    wide = similarity("a", decompose_factors(*factors(4, 1), 1.0), decompose_factors(*factors(4, 5), 1.0), (4, 4))
    narrow = similarity("b", decompose_factors(*factors(1, 2), 1.0), decompose_factors(*factors(1, 6), 1.0), (1, 1))
    zero = similarity("c", decompose_factors(*factors(1, 2), 1.0), decompose_factors(*factors(1, 6), 1.0), (0, 1))
    table, random = mean([wide, narrow, zero], "right")
    assert table.shape == (4, 4)
    assert table[0, 0] == pytest.approx((float(wide.right[0, 0]) + float(narrow.right[0, 0])) / 2)
    assert table[3, 3] == pytest.approx(float(wide.right[3, 3]))
    assert random[3, 1] == pytest.approx(4 / 40)
    assert mean([zero], "left")[0].size == 0


def test_a_zero_change_is_like_nothing():
    zero = decompose_factors(torch.ones(2, 40), torch.zeros(50, 2), 1.0)
    found = similarity("m", zero, decompose_factors(*factors(3, 1), 1.0), (0, 3))
    assert found.whole("left") is None
    assert not math.isnan(found.random("left"))
