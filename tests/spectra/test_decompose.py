"""Singular values and vectors of factors and of dense changes are those of a dense SVD, whatever the shapes and
scales."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorabench.record.spectrum import SHARES
from lorabench.spectra import decompose as module
from lorabench.spectra.decompose import (
    decompose_dense,
    decompose_factors,
    dense_singular_values,
    factor_singular_values,
    randomised,
)
from lorabench.spectra.delta import of_factors, of_weights

SHAPES = {
    "n_in": st.integers(1, 40),
    "n_out": st.integers(1, 40),
    "rank": st.integers(1, 12),
    "scaling": st.floats(1e-3, 1e3),
    "seed": st.integers(0, 10**6),
}


def factors(n_in, n_out, rank, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, n_in, generator=generator, dtype=dtype), torch.randn(
        n_out, rank, generator=generator, dtype=dtype
    )


def orthonormal(rows, columns, generator):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


@given(**SHAPES)
@settings(max_examples=100, deadline=None)
def test_factors_give_the_singular_values_and_vectors_of_their_product(n_in, n_out, rank, scaling, seed):
    a, b = factors(n_in, n_out, rank, seed)
    product = scaling * b @ a
    dense = torch.linalg.svdvals(product)
    values, found = factor_singular_values(a, b, scaling), decompose_factors(a, b, scaling)
    n = min(len(dense), len(values))
    for ours in (values, found.values):
        torch.testing.assert_close(ours[:n], dense[:n], rtol=1e-9, atol=1e-9 * float(dense[0]))
        assert bool((ours[n:].abs() < 1e-9 * ours[0]).all()), "beyond the smaller side there is nothing"
    torch.testing.assert_close(found.dense(), product, rtol=0, atol=1e-12 * float(dense[0]) * max(n_in, n_out))
    for columns in (found.u, found.v):
        torch.testing.assert_close(
            columns.T @ columns, torch.eye(columns.shape[1], dtype=torch.float64), rtol=0, atol=1e-12
        )


@given(**SHAPES, cut=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_no_other_tried_matrix_of_that_rank_is_nearer(n_in, n_out, rank, scaling, seed, cut):
    """Eckart and Young: against random ones, against steps away from the answer, and against alternating least squares
    from a random start."""
    a, b = factors(n_in, n_out, rank, seed)
    product, found = scaling * b @ a, decompose_factors(a, b, scaling).truncated(cut)
    lost = float(torch.linalg.matrix_norm(product - found.dense()))
    assert lost == pytest.approx(found.missed, rel=1e-6, abs=1e-9 * float(torch.linalg.matrix_norm(product)))
    near_a, near_b = found.factors()
    torch.testing.assert_close(near_b @ near_a, found.dense(), rtol=0, atol=1e-10 * float(found.values[0]))
    generator = torch.Generator().manual_seed(seed + 1)
    k = min(cut, rank, n_in, n_out)
    tried_a, tried_b = (
        torch.randn(k, n_in, generator=generator, dtype=torch.float64),
        torch.randn(n_out, k, generator=generator, dtype=torch.float64),
    )
    others = [tried_b @ tried_a]
    for step in (1e-3, 1e-1):
        others.append(
            (near_b + step * near_b.abs().max() * torch.randn(near_b.shape, generator=generator, dtype=torch.float64))
            @ near_a
        )
    for _ in range(20):
        tried_b = product @ torch.linalg.pinv(tried_a)
        tried_a = torch.linalg.pinv(tried_b) @ product
    others.append(tried_b @ tried_a)
    for other in others:
        assert float(torch.linalg.matrix_norm(product - other)) >= lost * (1 - 1e-9) - 1e-9 * float(found.values[0])


@given(
    n_in=st.integers(8, 60),
    n_out=st.integers(8, 60),
    planted=st.integers(1, 6),
    extra=st.integers(0, 6),
    scaling=st.floats(1e-3, 1e3),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=150, deadline=None)
def test_a_planted_rank_is_found_exactly_in_factors_of_a_higher_rank(n_in, n_out, planted, extra, scaling, seed, dtype):
    """B = P G, A = H Q stored with `planted + extra` columns: the product has rank `planted`, rounded to the storage's
    precision."""
    generator = torch.Generator().manual_seed(seed)
    rank = planted + extra
    p, q = orthonormal(n_out, planted, generator), orthonormal(n_in, planted, generator)
    turn = orthonormal(rank, planted, generator)
    values = torch.linspace(2.0, 1.0, planted, dtype=torch.float64)
    delta = of_factors("m", (turn * values.sqrt() @ q.T).to(dtype), (p * values.sqrt() @ turn.T).to(dtype), scaling)
    spectrum = delta.spectrum()
    assert spectrum.rank == min(rank, n_in, n_out)
    assert spectrum.numerical_rank == planted
    assert spectrum.energy_rank(0.99) == planted, "the least value holds more than one percent"


@given(
    n_in=st.integers(8, 60),
    n_out=st.integers(8, 60),
    planted=st.integers(1, 6),
    size=st.floats(1e-2, 10),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_a_planted_rank_is_found_exactly_between_two_checkpoints(n_in, n_out, planted, size, seed):
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(n_out, n_in, generator=generator)
    change = (
        orthonormal(n_out, planted, generator) * torch.linspace(2, 1, planted, dtype=torch.float64)
    ) @ orthonormal(n_in, planted, generator).T
    spectrum = of_weights("m", before, (before.double() + size * change).float()).spectrum()
    assert spectrum.numerical_rank == planted
    assert spectrum.energy_rank(0.99) == planted
    assert all(spectrum.energy_rank(q) <= planted for q in SHARES)


def test_an_untrained_adapter_has_only_zeros():
    values = factor_singular_values(torch.randn(4, 10), torch.zeros(6, 4), 2.0)
    assert torch.equal(values, torch.zeros_like(values))
    spectrum = of_factors("m", torch.randn(4, 10), torch.zeros(6, 4), 2.0).spectrum()
    assert spectrum.numerical_rank == 0
    assert spectrum.entropy_rank == 0


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(module, "DIRECT", 8)
    monkeypatch.setattr(module, "GRAM", 24)


def known(rows, columns, values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (orthonormal(rows, len(values), generator) * torch.tensor(values, dtype=torch.float64)) @ orthonormal(
        columns, len(values), generator
    ).T


@pytest.mark.parametrize(("rows", "columns"), [(6, 9), (9, 6), (20, 30), (30, 20), (24, 24)])
def test_a_dense_change_of_known_values_is_found_by_every_way(rows, columns, small_limits):
    values = [5.0, 4.0, 3.0, 1.0, 0.5]
    delta = known(rows, columns, values)
    found = dense_singular_values(delta)
    assert len(found) == min(rows, columns)
    torch.testing.assert_close(found[:5], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=0)
    assert float(found[5:].max()) < 1e-7, "the Gram matrix loses values below 1e-8 of the largest"
    whole, first = decompose_dense(delta), decompose_dense(delta, 3)
    torch.testing.assert_close(whole.dense(), delta, rtol=0, atol=1e-7)
    torch.testing.assert_close(first.values, torch.tensor(values[:3], dtype=torch.float64))
    assert first.missed == pytest.approx(float(np.hypot(1.0, 0.5)), rel=1e-6)
    for columns_ in (whole.u[:, :5], whole.v[:, :5]):
        torch.testing.assert_close(columns_.T @ columns_, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_beyond_the_gram_matrix_the_first_values_are_near_and_what_is_missed_is_told(small_limits):
    delta = known(60, 50, [float(0.8**i) for i in range(50)])
    exact = torch.linalg.svdvals(delta)
    found = randomised(delta, 10)
    torch.testing.assert_close(found.values, exact[:10], rtol=1e-3, atol=0)
    assert found.missed == pytest.approx(float(torch.linalg.vector_norm(exact[10:])), rel=1e-3)
    assert bool((found.values <= exact[:10] * (1 + 1e-12)).all()), "a projection makes no value larger"
    again = randomised(delta, 10)
    assert torch.equal(found.values, again.values)
    lost = torch.linalg.matrix_norm(delta - decompose_dense(delta, 10).dense())
    assert float(lost) == pytest.approx(found.missed, rel=1e-3)


def test_the_spectrum_of_a_very_large_change_says_what_it_leaves_out(small_limits, monkeypatch):
    monkeypatch.setattr("lorabench.spectra.delta.GRAM", 24)
    monkeypatch.setattr(module, "SKETCH", 10)
    delta = known(60, 50, [float(0.8**i) for i in range(50)])
    spectrum = of_weights("m", torch.zeros(60, 50, dtype=torch.float64), delta).spectrum()
    assert len(spectrum.singular_values) == 10
    assert spectrum.frobenius_norm == pytest.approx(float(torch.linalg.matrix_norm(delta)))
    assert spectrum.energy_rank(0.9) == 6, "1 - 0.64^k >= 0.9"
    assert spectrum.energy_rank(0.99) == 11, "more than are listed"


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_first_values_of_a_weight_are_within_a_percent_even_where_they_hardly_fall(decay):
    delta = known(400, 300, [float((i + 1) ** -decay) for i in range(300)])
    found = randomised(delta, 16).values
    exact = torch.linalg.svdvals(delta)[:16]
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)
