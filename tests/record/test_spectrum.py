"""Each measure of a spectrum against a second way to compute it, its bounds, and the file that keeps it."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lorabench.errors import StoreError
from lorabench.record.result import Reading
from lorabench.record.spectrum import (
    Alignment,
    Intruders,
    Repair,
    Spectrum,
    by_layer,
    energy_rank,
    entropy_rank,
    load_spectra,
    nuclear_rank,
    participation_ratio,
    place,
    places,
    save_spectra,
    stable_rank,
)
from lorabench.record.truncations import (
    Directions,
    Truncation,
    load_directions,
    load_truncations,
    save_directions,
    save_truncations,
)

SPECTRA = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40).map(lambda v: np.array(sorted(v, reverse=True)))
MEASURES = (stable_rank, entropy_rank, participation_ratio)


@given(SPECTRA)
def test_measures_computed_a_second_way(values):
    matrix = np.diag(values)
    assert stable_rank(values) == pytest.approx((np.linalg.norm(matrix) / np.linalg.norm(matrix, 2)) ** 2)
    assert entropy_rank(values) == pytest.approx(math.exp(scipy.stats.entropy(values)))
    gram = matrix @ matrix
    assert participation_ratio(values) == pytest.approx(np.trace(gram) ** 2 / np.trace(gram @ gram))


@given(SPECTRA, st.floats(1e-6, 1e6))
def test_measures_lie_between_one_and_the_rank_and_know_no_scale(values, factor):
    for measure in MEASURES:
        assert 1 - 1e-9 <= measure(values) <= len(values) * (1 + 1e-9)
        assert measure(values * factor) == pytest.approx(measure(values), rel=1e-6)
    assert stable_rank(values) <= participation_ratio(values) * (1 + 1e-9), "sum e^2 <= max e"


@pytest.mark.parametrize("n", [1, 3, 64])
def test_equal_values_use_the_whole_rank(n):
    for measure in MEASURES:
        assert measure(np.full(n, 0.3)) == pytest.approx(n)
    assert energy_rank(np.full(n, 0.3), 1.0) == n


@pytest.mark.parametrize("values", [np.zeros(4), np.array([])])
def test_a_change_of_zero_has_rank_zero_by_every_measure(values):
    for measure in MEASURES:
        assert measure(values) == 0
    assert energy_rank(values, 0.9) == nuclear_rank(values, 0.9) == 0
    s = Spectrum("m", values, rank=4, alignment=Alignment(1.0, 0, 0.0, 0.0, 0.0, 0.0))
    assert s.numerical_rank == 0
    assert s.rank_utilisation == 0
    assert s.relative_norm == 0
    assert s.amplification is None


@given(SPECTRA, st.floats(0.01, 1))
def test_energy_rank_is_the_least_k_that_holds_the_share(values, share):
    for rank, parts in ((energy_rank(values, share), values**2), (nuclear_rank(values, share), values)):
        total = math.fsum(parts)
        assert math.fsum(parts[:rank]) >= share * total * (1 - 1e-9)
        assert math.fsum(parts[: rank - 1]) < share * total * (1 + 1e-9)


def test_by_hand():
    values = np.array([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14; plain of 6
    assert stable_rank(values) == pytest.approx(14 / 9)
    assert participation_ratio(values) == pytest.approx(14**2 / (81 + 16 + 1))
    assert [energy_rank(values, q) for q in (0.5, 9 / 14, 0.65, 0.93, 0.99)] == [1, 1, 2, 3, 3]
    assert [nuclear_rank(values, q) for q in (0.5, 0.51, 5 / 6)] == [1, 2, 2]
    s = Spectrum("m", values, 8, 4, 3, noise=1.5, alignment=Alignment(10.0, 2, 13**0.5, 0.5, 7.0, 0.1))
    assert s.frobenius_norm == pytest.approx(14**0.5)
    assert s.numerical_rank == 2
    assert s.amplification == pytest.approx(13**0.5 / 0.5)
    assert s.relative_norm == pytest.approx(14**0.5 / 10)


@given(SPECTRA, st.integers(1, 39), st.floats(0.05, 1))
def test_values_that_are_not_listed_count_in_norm_stable_rank_and_k(values, listed, share):
    whole, part = Spectrum("m", values), Spectrum("m", values[:listed], missed=float(np.linalg.norm(values[listed:])))
    assert part.frobenius_norm == pytest.approx(whole.frobenius_norm)
    assert part.stable_rank == pytest.approx(whole.stable_rank)
    k = whole.energy_rank(share * 0.999)
    if k <= listed:
        assert part.energy_rank(share * 0.999) in (k, k + 1 if k == listed else k)
    else:
        assert part.energy_rank(share * 0.999) == min(listed, len(values)) + 1


@pytest.mark.parametrize(
    ("module", "layer", "kind"),
    [
        ("model.layers.3.self_attn.q_proj", 3, "self_attn.q_proj"),
        ("transformer.h.11.attn.c_attn", 11, "attn.c_attn"),
        ("roberta.encoder.layer.0.attention.self.query", 0, "attention.self.query"),
        ("model.layers.2.mlp.experts.5.w1", 2, "mlp.experts.5.w1"),
        ("lm_head", None, "lm_head"),
        ("classifier.0", None, "classifier.0"),
    ],
)
def test_place(module, layer, kind):
    assert place(module) == (layer, kind)


def test_where_layers_stand_in_two_places_the_type_says_which():
    names = ["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q", "lm_head"]
    assert places(names) == {
        names[0]: (0, "encoder.block.layer.0.SelfAttention.q"),
        names[1]: (0, "decoder.block.layer.0.SelfAttention.q"),
        "lm_head": (None, "lm_head"),
    }
    assert places(names[:1]) == {names[0]: place(names[0])}


def test_a_change_within_rounding_is_zero_by_every_measure():
    s = Spectrum("m", np.array([1e-9, 5e-10]), 4, 4, 4, noise=1e-8)
    assert s.numerical_rank == s.stable_rank == s.entropy_rank == s.participation_ratio == s.energy_rank(0.9) == 0


def test_names_are_sorted_as_a_model_has_them():
    assert sorted(["a.10.b", "a.2.b", "a.2.a", "b", "a.2.a10", "a.2.a9"], key=by_layer) == [
        "a.2.a",
        "a.2.a9",
        "a.2.a10",
        "a.2.b",
        "a.10.b",
        "b",
    ]


def test_spectra_come_back_from_their_file(tmp_path):
    made = [
        Spectrum(
            "x.10.q",
            np.array([2.0, 1.0]),
            6,
            4,
            2,
            1e-7,
            Alignment(3.0, 2, 2.2, 0.1, 2.0, 0.3),
            Intruders(1, 10, 0.5, 0.25),
            Repair(0.1, -0.2, 0.01, 0.3),
        ),
        Spectrum("x.2.q", np.array([0.0])),
    ]
    save_spectra(tmp_path / "s.safetensors", made)
    found = load_spectra(tmp_path / "s.safetensors")
    assert [s.module for s in found] == ["x.2.q", "x.10.q"]
    for s, t in zip(found, reversed(made), strict=True):
        for field in ("in_features", "out_features", "rank", "noise", "alignment", "intruders", "repair"):
            assert getattr(s, field) == getattr(t, field)
        assert s.singular_values.tolist() == t.singular_values.tolist()


def test_a_file_of_an_older_version_has_values_alone(tmp_path):
    save_file({"x.0.q": np.array([1.0, 0.5], dtype=np.float32)}, tmp_path / "s.safetensors")
    (s,) = load_spectra(tmp_path / "s.safetensors")
    assert s.rank is None
    assert s.rank_utilisation is None
    assert s.alignment is None


@pytest.mark.parametrize("load", [load_spectra, load_directions, load_truncations])
@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"nonsense",
        b"\xff" * 64,
        b"allocation,rank,parameters,kept_energy,metric,value,stderr,count\nodd,1,1,1,m,1,,\n",
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(load, content, tmp_path):
    path = tmp_path / "f"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        load(path)


@settings(max_examples=20)
@given(st.floats(-1e6, 1e6), st.one_of(st.none(), st.floats(0, 1e3)), st.one_of(st.none(), st.integers(1, 10**6)))
def test_truncations_and_directions_come_back(tmp_path_factory, value, stderr, count):
    folder = tmp_path_factory.mktemp("learned")
    made = [
        Truncation(
            "energy",
            2,
            80,
            0.96,
            (Reading(metric="eval_loss", value=value, stderr=stderr, count=count), Reading(metric="t/acc", value=0.5)),
        ),
        Truncation("uniform", 4, 160, 1.0, (Reading(metric="eval_loss", value=2.0),)),
        Truncation("uniform", 2, 80, 0.9, (Reading(metric="eval_loss", value=3.0),)),
    ]
    save_truncations(folder / "t.csv", made)
    assert load_truncations(folder / "t.csv") == (made[2], made[1], made[0])
    columns = np.eye(4)[:, :2]
    save_directions(folder / "d.safetensors", {"m": Directions(columns, columns[:3])})
    found = load_directions(folder / "d.safetensors")["m"]
    assert found.left.tolist() == columns.tolist()
    assert found.right.shape == (3, 2)
