"""What belongs to a base alone: kept numbers are those computed anew, by a dense float64 SVD, whoever wrote them and
whatever became of the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorabench.spectra import own as module
from lorabench.spectra.alignment import intruders
from lorabench.spectra.analyse import beside_base, decomposed
from lorabench.spectra.decompose import decompose_dense, dense_singular_values, leading
from lorabench.spectra.delta import of_factors, of_weights
from lorabench.spectra.own import Own, TensorCache

CPU = torch.device("cpu")


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def falling(rows, columns, seed=0):
    """A matrix whose singular values fall as those of trained weights do."""
    u, v = torch.linalg.qr(gaussian(rows, rows, seed)).Q, torch.linalg.qr(gaussian(columns, columns, seed + 1)).Q
    k = min(rows, columns)
    return (u[:, :k] * torch.arange(1, k + 1, dtype=torch.float64) ** -0.7) @ v[:, :k].T


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (400, 280), (280, 400), (40, 300), (7, 5)])
def test_the_first_terms_are_those_of_a_dense_svd(rows, columns):
    matrix = falling(rows, columns)
    u, s, _ = np.linalg.svd(matrix.numpy())
    values, left = leading(matrix, 64, 16)
    k, j = min(64, rows, columns), min(16, rows, columns)
    assert values.numpy() == pytest.approx(s[:k], rel=1e-9)
    assert np.abs(np.sum(u[:, :j] * left.numpy(), axis=0)) == pytest.approx(np.ones(j), abs=1e-9)
    assert leading(matrix, 64, 0)[0].numpy() == pytest.approx(s[:k], rel=1e-9)


@given(seed=st.integers(0, 10**6), size=st.floats(1e-4, 3), rank=st.integers(1, 12), tall=st.booleans())
@settings(max_examples=60, deadline=None)
def test_intruders_counted_by_the_first_vectors_are_those_of_the_whole_svd(seed, size, rank, tall):
    """Small changes are decided by the first vectors, large ones by all: 48 of them, where 16 are kept."""
    rows, columns = (64, 48) if tall else (48, 64)
    weight = falling(rows, columns, seed)
    delta = of_factors("m", gaussian(rank, columns, seed + 2), size * gaussian(rows, rank, seed + 3) / rows, 1.0)
    found = intruders(delta, weight)
    u0 = np.linalg.svd(weight.numpy(), full_matrices=False)[0]
    u1, s1, _ = np.linalg.svd((weight + delta.matrix()).numpy(), full_matrices=False)
    best = np.abs(u0.T @ u1[:, :10]).max(axis=0)
    if (np.abs(best - 0.5) < 1e-6).any():
        return
    assert found.count == (best < 0.5).sum()
    assert found.energy_share == pytest.approx((s1[:10][best < 0.5] ** 2).sum() / (s1**2).sum(), rel=1e-6)


def test_a_small_change_asks_for_no_vector_beyond_the_first(monkeypatch):
    monkeypatch.setattr(
        "lorabench.spectra.alignment.best_cosines", lambda *given: pytest.fail("all vectors were computed")
    )
    assert (
        intruders(of_factors("m", 1e-4 * gaussian(4, 300, 1), gaussian(300, 4, 2), 1.0), falling(300, 300)).count == 0
    )


def test_a_second_cell_reads_what_the_first_computed_and_gets_the_same_numbers(tmp_path, monkeypatch):
    weight, quantize = falling(300, 200).float(), lambda w: (w, (w * 64).round() / 64)
    delta = of_factors("m", gaussian(4, 200, 1), 0.01 * gaussian(300, 4, 2), 1.0)

    def look(own):
        return beside_base(delta, decomposed(delta), weight, quantize, own=own)

    first = Own(TensorCache(tmp_path / "base", "w"), TensorCache(tmp_path / "base", "e"))
    assert not first.is_known
    made, plain = look(first), look(None)
    first.save()
    assert (tmp_path / "base").is_dir() and {oct(p.stat().st_mode)[-3:] for p in (tmp_path / "base").iterdir()} == {
        "644"
    }
    monkeypatch.setattr(module, "leading", lambda *given: pytest.fail("the weight was decomposed again"))
    monkeypatch.setattr(module, "leading_values", lambda *given: pytest.fail("the error was decomposed again"))
    second = Own(TensorCache(tmp_path / "base", "w"), TensorCache(tmp_path / "base", "e"))
    assert second.is_known
    read = look(second)
    for found in (made, read):
        assert (found.alignment, found.intruders, found.repair) == (
            plain.alignment,
            plain.intruders,
            plain.repair,
        ), "to the last digit"
    error = quantize(weight)[1].double() - weight.double()
    assert read.repair.best_share == pytest.approx(
        float(torch.linalg.svdvals(error)[:4].square().sum() / error.square().sum()), rel=1e-9
    )
    assert read.alignment.projected_own == pytest.approx(
        float(torch.linalg.vector_norm(torch.linalg.svdvals(weight.double())[:4])), rel=1e-9
    )


def test_two_workers_lose_nothing_and_a_damaged_file_counts_as_absent(tmp_path):
    one, two = TensorCache(tmp_path, "w"), TensorCache(tmp_path, "w")
    one.put("a", gaussian(3, 3, 1))
    two.put("b", gaussian(3, 3, 2))
    one.save()
    two.save()
    third = TensorCache(tmp_path, "w")
    assert torch.equal(third.get("a", CPU), gaussian(3, 3, 1)) and torch.equal(third.get("b", CPU), gaussian(3, 3, 2))
    assert TensorCache(tmp_path, "another model").get("a", CPU) is None
    third.path.write_bytes(b"cut off")
    fourth = TensorCache(tmp_path, "w")
    assert fourth.get("a", CPU) is None
    fourth.put("a", gaussian(3, 3, 1))
    fourth.save()
    assert TensorCache(tmp_path, "w").is_stored


def test_a_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    kept = TensorCache(tmp_path, "w")
    for i in range(20):
        kept.put(str(i), torch.zeros(20))
    kept.save()
    assert sum(TensorCache(tmp_path, "w").get(str(i), CPU) is not None for i in range(20)) == 6


def test_a_dense_change_beside_its_base_is_that_of_its_whole_decomposition():
    weight = falling(320, 290)
    delta = of_weights("m", weight, weight + 0.01 * gaussian(320, 290, 5))
    quantize = lambda w: (w, (w * 64).round() / 64)  # noqa: E731
    found = beside_base(delta, decomposed(delta), weight, quantize)
    whole = decompose_dense(delta.dense)
    assert found.singular_values == pytest.approx(torch.linalg.svdvals(delta.dense).numpy(), rel=1e-7)
    assert dense_singular_values(delta.dense).numpy() == pytest.approx(found.singular_values, rel=1e-12)
    error = quantize(weight)[1] - weight
    dense = whole.dense()
    assert found.repair.cosine == pytest.approx(float(-(dense * error).sum() / dense.norm() / error.norm()), abs=1e-9)
    assert found.repair.repaired_share == pytest.approx(
        1 - float((error + dense).square().sum() / error.square().sum()), abs=1e-7
    )
