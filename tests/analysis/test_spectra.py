"""What conditions learned: similarity of subspaces against principal angles, means against sums by hand, files read
once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from lorabench.analysis import spectra
from lorabench.analysis.spectra import (
    fields,
    mean_decay,
    measured,
    orthonormal,
    over_seeds,
    seed_similarity,
    similarity,
    type_decays,
)
from lorabench.record.spectrum import Spectrum, save_spectra
from lorabench.record.truncations import Directions

RNG = np.random.default_rng(0)


def columns(n: int, k: int) -> np.ndarray:
    """Orthonormal columns that span a uniformly distributed subspace."""
    return np.linalg.qr(RNG.standard_normal((n, k))).Q


def spectrum(module: str, *values: float, rank: int | None = None) -> Spectrum:
    return Spectrum(module, np.array(values, dtype=np.float64), rank=rank)


def test_phi_is_the_mean_squared_cosine_of_the_principal_angles() -> None:
    a, b = columns(40, 6), columns(40, 6)
    phi = similarity(a, b)
    for i in range(1, 7):
        for j in range(1, 7):
            squares = np.cos(subspace_angles(a[:, :i], b[:, :j])) ** 2
            assert phi[i - 1, j - 1] == pytest.approx(squares.sum() / min(i, j))


def test_phi_of_a_subspace_with_itself_is_1_whatever_its_basis_and_of_orthogonal_ones_0() -> None:
    a = columns(30, 8)
    turned = a[:, :4] @ np.linalg.qr(RNG.standard_normal((4, 4))).Q
    assert similarity(a, a).diagonal() == pytest.approx(np.ones(8))
    assert similarity(a[:, :4], turned)[3, 3] == pytest.approx(1)
    assert similarity(a[:, :4], a[:, 4:]) == pytest.approx(np.zeros((4, 4)), abs=1e-12)
    assert similarity(a[:, :2], a)[1, 7] == pytest.approx(1)  # the smaller within the larger


def test_phi_of_random_subspaces_is_near_the_larger_dimension_over_n() -> None:
    n, k, often = 50, 5, 400
    mean = np.mean([similarity(columns(n, k), columns(n, k)) for _ in range(often)], axis=0)
    i, j = np.indices((k, k)) + 1
    assert mean == pytest.approx(np.maximum(i, j) / n, rel=0.15)


def test_stored_columns_become_orthonormal_and_keep_what_their_first_k_span() -> None:
    exact = columns(64, 8)
    made = orthonormal(exact.astype(np.float16))
    assert made.T @ made == pytest.approx(np.eye(8), abs=1e-12)
    for k in range(1, 9):
        assert np.max(subspace_angles(made[:, :k], exact[:, :k])) < 2e-3


def test_a_column_that_is_no_direction_ends_the_subspace() -> None:
    stored = columns(16, 4)
    stored[:, 2] = 0
    assert orthonormal(stored).shape == (16, 2)
    stored[:, 0] = np.nan
    assert orthonormal(stored).shape == (16, 0)


def both(left: np.ndarray, right: np.ndarray) -> Directions:
    return Directions(left, right)


def test_similarity_between_seeds_is_the_mean_over_pairs_and_modules() -> None:
    seeds = [{m: both(columns(20, 3), columns(n, 3)) for m, n in (("a", 10), ("b", 40))} for _ in range(3)]
    found = seed_similarity(seeds, "right", 8)
    assert found is not None
    assert found.pairs == 3
    by_hand = np.mean(
        [
            [similarity(x[m].right, y[m].right), similarity(y[m].right, x[m].right)]
            for x, y in ((seeds[0], seeds[1]), (seeds[0], seeds[2]), (seeds[1], seeds[2]))
            for m in "ab"
        ],
        axis=(0, 1),
    )
    assert np.array(found.phi) == pytest.approx(by_hand)
    assert found.diagonal == pytest.approx(by_hand.diagonal())
    assert found.random == pytest.approx((1 / 10 + 1 / 40) / 2)
    left = seed_similarity(seeds, "left", 8)
    assert left is not None
    assert left.random == pytest.approx(1 / 20)


def test_a_module_of_lower_rank_leaves_the_mean_where_it_ends() -> None:
    first, second = (
        {"a": both(q, q), "b": both(p, p)}
        for q, p in ((columns(12, 1), columns(12, 4)), (columns(12, 1), columns(12, 4)))
    )
    found = seed_similarity([first, second], "left", 8)
    assert found is not None
    assert len(found.phi) == 4
    b = similarity(first["b"].left, second["b"].left)
    a = similarity(first["a"].left, second["a"].left)
    assert found.diagonal[0] == pytest.approx((a[0, 0] + b[0, 0]) / 2)
    assert found.diagonal[1:] == pytest.approx(b.diagonal()[1:])


def test_one_seed_or_no_module_in_common_has_no_similarity() -> None:
    q = columns(8, 2)
    assert seed_similarity([{"a": both(q, q)}], "left", 8) is None
    assert seed_similarity([{"a": both(q, q)}, {"b": both(q, q)}], "left", 8) is None
    assert (
        seed_similarity([{"a": both(q, q)}, {"a": both(columns(9, 2), q)}], "left", 8) is None
    )  # sides of different length


def test_means_go_over_modules_then_over_seeds() -> None:
    cells = [
        [spectrum("a", 3, rank=1), spectrum("b", 5, rank=2), spectrum("c", 7)],
        [spectrum("a", 8, rank=4)],
        [spectrum("c", 1)],
    ]
    found = measured(cells, lambda s: s.rank)
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx((1.5 + 4) / 2), 2)
    assert found.std == pytest.approx(np.std([1.5, 4], ddof=1))
    assert measured(cells, lambda s: None) is None
    one = over_seeds([2.0])
    assert one is not None
    assert one.std is None


def test_fields_stand_by_layer_and_type_with_gaps_where_there_is_no_module() -> None:
    first = [
        spectrum("m.layers.0.q", 4, 3),
        spectrum("m.layers.10.q", 1),
        spectrum("m.layers.2.k", 2, 2, 2),
        spectrum("lm_head", 1, 1, 1, 1),
    ]
    second = [spectrum("m.layers.0.q", 4)]
    found = fields([first, second], lambda s: float(len(s.singular_values)))
    assert found.layers == (0, 2, 10, None)
    assert found.types == ("q", "k", "lm_head")
    assert found.values == ((1.5, None, 1.0, None), (None, 3.0, None, None), (None, None, None, 4.0))


def test_decays_by_type_are_means_of_normalised_values() -> None:
    cells = [[spectrum("l.0.q", 4, 2, 1), spectrum("l.1.q", 10, 1), spectrum("l.0.k", 0, 0)]]
    found = type_decays(cells)
    assert set(found) == {"q"}  # a change of zero has no decay
    assert found["q"] == pytest.approx([1, (0.5 + 0.1) / 2, 0.25])


def test_a_decay_ends_at_rounding_and_at_what_a_figure_shows() -> None:
    assert len(mean_decay([np.array([1, 0.5, 1e-9, 1e-10])])) == 2
    assert len(mean_decay([np.linspace(1, 0.5, 5000)])) == spectra.MOST_VALUES
    assert len(mean_decay([])) == 0


def test_a_file_is_read_once_until_it_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "spectra.safetensors", []
    true = spectra.load_spectra
    monkeypatch.setattr(spectra, "load_spectra", lambda p: reads.append(p) or true(p))
    save_spectra(path, [spectrum("a", 2, 1)])
    assert spectra.spectra(path)[0].singular_values.tolist() == [2, 1]
    assert spectra.spectra(path) is spectra.spectra(path)
    assert len(reads) == 1
    save_spectra(path, [spectrum("a", 3, 1)])
    os.utime(path, ns=(1, 1))
    assert spectra.spectra(path)[0].singular_values.tolist() == [3, 1]
    assert len(reads) == 2


def test_what_is_absent_or_damaged_reads_as_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x00\xff")
    for path in (bad, tmp_path / "absent"):
        assert spectra.spectra(path) == ()
        assert spectra.truncations(path) == ()
        assert spectra.directions(path) == {}
