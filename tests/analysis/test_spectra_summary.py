"""Groups of spectra are those of the block-diagonal matrix of their changes."""

import numpy as np
import pytest
import scipy.linalg

from lorabench.analysis.spectra_summary import summarise
from lorabench.record.spectrum import Alignment, Repair, Spectrum


def spectrum(module, matrix, **parts):
    return Spectrum(
        module, np.linalg.svd(matrix, compute_uv=False), matrix.shape[1], matrix.shape[0], min(matrix.shape), **parts
    )


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return {
        f"model.layers.{i}.{kind}": rng.standard_normal((6, 5)) * (i + 1)
        for i in range(3)
        for kind in ("q_proj", "up_proj")
    }


def test_norms_and_directions_are_those_of_one_block_diagonal_matrix(matrices):
    found = summarise(spectrum(n, m) for n, m in matrices.items())
    for group, names in (
        (found.model, list(matrices)),
        (found.types[0], [n for n in matrices if "q_proj" in n]),
        (found.layers[2], [n for n in matrices if ".2." in n]),
    ):
        whole = scipy.linalg.block_diag(*(matrices[n] for n in names))
        assert group.modules == len(names)
        assert group.frobenius_norm == pytest.approx(np.linalg.norm(whole))
        squares = np.linalg.svd(whole, compute_uv=False) ** 2
        for q, k in group.directions.items():
            assert squares[:k].sum() >= float(q) * squares.sum() * (1 - 1e-9) > squares[: k - 1].sum() * (1 - 1e-9)
        ranks = [spectrum(n, matrices[n]).stable_rank for n in names]
        assert group.stable_rank == pytest.approx(np.mean(ranks))
    assert [g.name for g in found.layers] == ["0", "1", "2"]
    assert [g.name for g in found.types] == ["q_proj", "up_proj"]
    assert found.model.relative_norm is None


def test_repair_of_a_group_is_that_of_its_block_diagonal_matrices(matrices):
    rng = np.random.default_rng(1)
    made, changes, errors = [], [], []
    for name, change in matrices.items():
        error = rng.standard_normal(change.shape)
        cosine = float(-(change * error).sum() / np.linalg.norm(change) / np.linalg.norm(error))
        repaired = 1 - np.linalg.norm(error + change) ** 2 / np.linalg.norm(error) ** 2
        made.append(
            spectrum(
                name,
                change,
                alignment=Alignment(2.0, 1, 1.0, 1.0, 1.0, 1.0),
                repair=Repair(float(np.linalg.norm(error)), cosine, repaired, 0.5),
            )
        )
        changes.append(change)
        errors.append(error)
    group = summarise(made).model
    change, error = scipy.linalg.block_diag(*changes), scipy.linalg.block_diag(*errors)
    assert group.repair_cosine == pytest.approx(
        float(-(change * error).sum() / np.linalg.norm(change) / np.linalg.norm(error))
    )
    assert group.repaired_share == pytest.approx(1 - np.linalg.norm(error + change) ** 2 / np.linalg.norm(error) ** 2)
    assert group.best_share == pytest.approx(0.5)
    assert group.relative_norm == pytest.approx(np.linalg.norm(change) / (2.0 * len(made) ** 0.5))


def test_changes_of_zero_sum_up_to_nothing():
    group = summarise([Spectrum("a.0.q", np.zeros(3), 4, 3, 3), Spectrum("b", np.zeros(2), 4, 2, 2)]).model
    assert group.frobenius_norm == group.stable_rank == group.entropy_rank == 0
    assert set(group.directions.values()) == {0}
    assert group.rank_utilisation == 0
