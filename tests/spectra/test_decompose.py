"""Singular values of factors are those of the dense product, whatever the shapes and scales."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorabench.spectra.decompose import dense_singular_values, factor_singular_values


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_factors_give_the_singular_values_of_their_product(n_in, n_out, rank, scaling, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, n_in, generator=generator, dtype=torch.float64)
    b = torch.randn(n_out, rank, generator=generator, dtype=torch.float64)
    dense = torch.linalg.svdvals(scaling * b @ a)
    ours = factor_singular_values(a, b, scaling)
    n = min(len(dense), len(ours))
    torch.testing.assert_close(ours[:n], dense[:n], rtol=1e-9, atol=1e-9 * float(dense[0]))
    assert bool((ours[n:].abs() < 1e-9 * ours[0]).all()), "beyond the smaller side there is nothing"


def test_an_untrained_adapter_has_only_zeros():
    values = factor_singular_values(torch.randn(4, 10), torch.zeros(6, 4), 2.0)
    assert torch.equal(values, torch.zeros_like(values))


def test_a_dense_delta_of_known_values_is_found():
    q1, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    q2, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    delta = q1[:, :5] @ torch.diag(torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5], dtype=torch.float64)) @ q2
    torch.testing.assert_close(dense_singular_values(delta), torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5], dtype=torch.float64))
