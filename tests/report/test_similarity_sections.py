"""How alike the subspaces of seeds and ranks are, against scipy's angles between the stored ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.linalg import subspace_angles

from lorabench.analysis import condition_spectra as of_conditions
from lorabench.analysis import spectra as analysed
from lorabench.report.blocks import Text
from lorabench.report.page import sections, write_report
from lorabench.report.view import View, make_view
from lorabench.sections import (
    effective_rank,
    quantization_repair,
    rank_similarity,
    seed_similarity,
    spectra,
    truncation,
)
from tests import synthetic_spectra
from tests.report.learned import FILES, cells
from tests.report.stores import ONLY_FULL, STUDY, filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("learned")))


def test_similarity_between_seeds_is_that_of_the_stored_subspaces(view: View) -> None:
    found = {s.label: s for s in seed_similarity.compute(view)}
    one, two = (load_file(view.analysis.file(c.cell.id, FILES[1])) for c in cells(view, "LoRA r=16"))
    for side, similarity, sides in (
        ("right", found["LoRA r=16"].right, (64, 256)),
        ("left", found["LoRA r=16"].left, (64, 64)),
    ):
        names = [n for n in one if n.endswith(side)]
        assert len(names) == 8
        for k in (1, 4, 8):
            angles = [
                np.cos(subspace_angles(one[n][:, :k].astype(float), two[n][:, :k].astype(float))) ** 2 for n in names
            ]
            assert similarity.diagonal[k - 1] == pytest.approx(np.mean([a.sum() / k for a in angles]), abs=1e-3)
        assert similarity.random == pytest.approx(np.mean([1 / n for n in sides]))
    expected = synthetic_spectra.SHARED**2 + (1 - synthetic_spectra.SHARED) ** 2 * 8 * np.mean([1 / 56, 1 / 248])
    assert found["LoRA r=16"].right.diagonal[7] == pytest.approx(expected, abs=0.02)


def test_a_rank_stops_where_it_ends_and_one_seed_shows_nothing(view: View, tmp_path: Path) -> None:
    found = seed_similarity.compute(view)
    assert {s.label: len(s.right.phi) for s in found} == {
        f"LoRA r={r}{q}": min(r, 8) for r in (1, 4, 16) for q in ("", " nf4")
    } | {"full": 8}
    info = seed_similarity.drawing(view, found)
    assert info.lines[-1].label == "random subspaces"
    assert info.lines[-1].y[3] == pytest.approx(4 * (1 / 64 + 1 / 256) / 2)
    alone = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]")))
    assert seed_similarity.section(alone) is None
    assert truncation.section(alone) is not None


def test_the_map_shows_both_sides_of_the_highest_rank_symmetric(view: View) -> None:
    one = seed_similarity.chosen(view, seed_similarity.compute(view))
    info = seed_similarity.compute_map(one)
    assert one.label == "LoRA r=16"
    assert [p.label for p in info.planes] == ["right side", "left side"]
    values = np.array(info.planes[0].values, dtype=float)
    assert values == pytest.approx(values.T)
    assert values.diagonal() == pytest.approx(one.right.diagonal)


def test_a_rank_that_learned_the_same_directions_lies_within_the_higher_one(tmp_path: Path) -> None:
    """The synthetic executor's seeds share a part of every direction, whatever the rank: phi is SHARED^2 and what
    chance adds."""
    view = make_view(filled(tmp_path))
    found = rank_similarity.compute(view)
    assert [(r.family, r.low, r.high) for r in found] == [
        ("LoRA", 1, 4),
        ("LoRA", 4, 16),
        ("LoRA nf4", 1, 4),
        ("LoRA nf4", 4, 16),
    ]
    wide = found[1]
    assert (len(wide.right.phi), len(wide.right.phi[0])) == (4, 8)
    assert wide.right.pairs == 2
    one, other = (
        of_conditions.directions_by_seed(view.analysis, view.analysis.summaries[i].condition)[0] for i in (2, 4)
    )
    name = next(iter(one))
    by_hand = (
        np.linalg.norm(
            np.linalg.qr(one[name].right.astype(float)).Q.T @ np.linalg.qr(other[name].right.astype(float)).Q
        )
        ** 2
        / 4
    )
    alone = analysed.rank_similarity([({name: one[name]}, {name: other[name]})], "right", 8)
    assert alone is not None
    assert alone.phi[3][7] == pytest.approx(by_hand, abs=1e-6)
    same = analysed.rank_similarity([(one, one)], "left", 8)
    assert same is not None
    assert same.phi[0][3] == pytest.approx(1, abs=1e-3)
    heat = rank_similarity.compute_map(wide)
    assert (len(heat.planes[0].rows), len(heat.planes[0].columns)) == (4, 8)
    assert rank_similarity.section(view) is not None
    assert rank_similarity.section(make_view(filled(tmp_path / "one", ONLY_FULL))) is None


@pytest.mark.parametrize(
    ("wanted", "words"), [("none", "was not decomposed"), ("values", "Singular values alone were kept")]
)
def test_a_study_that_asked_for_less_is_told_what_is_missing(tmp_path: Path, wanted: str, words: str) -> None:
    view = make_view(store := filled(tmp_path, STUDY + f"analysis: {{spectra: {wanted}}}\n"))
    made = spectra.section(view)
    assert made is not None and words in next(b.text for b in made.blocks if isinstance(b, Text))
    assert (
        seed_similarity.section(view) is None
        and rank_similarity.section(view) is None
        and quantization_repair.section(view) is None
    )
    assert (effective_rank.section(view) is None) == (wanted == "none")
    assert view.findings is not None and sections(view)
    assert write_report(store, tmp_path / "report.html").stat().st_size > 1000
