"""Quantized conditions against their twins, against scipy.stats and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lorabench.config import Cell, expand
from lorabench.record.items import Items
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult
from lorabench.report import quantization_gap_text as text
from lorabench.report.blocks import Figure
from lorabench.report.view import make_view
from lorabench.sections import quantization_gap as section
from tests.analysis.gaps import STUDY, found, kind, noisy, per_seed
from tests.report.stores import filled, renamed, study_of


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, ...]:
    return expand(study_of(tmp_path_factory.mktemp("gaps"), STUDY))


# twins


def test_every_type_has_its_pairs_and_double_quantization_is_a_type_of_its_own(cells: tuple[Cell, ...]) -> None:
    both = (*cells, *renamed(cells, "hub/large"))
    gaps = found(both, noisy(0, {}))
    assert {k: (len(t.gaps), len(t.bases), t.expected) for k, t in gaps.items()} == {
        "int8": (4, 0, 4),
        "nf4": (4, 2, 4),
        "nf4 + double quant": (4, 0, 4),
    }
    setting = {c.condition_id: c for c in both}
    for t in gaps.values():
        for g in (*t.gaps, *t.bases):
            ours, unquantized_counterpart = setting[g.condition], setting[g.unquantized_counterpart]
            assert unquantized_counterpart.quantization.name == "none"
            assert (ours.method, ours.model, ours.training, ours.fingerprints) == (
                unquantized_counterpart.method,
                unquantized_counterpart.model,
                unquantized_counterpart.training,
                unquantized_counterpart.fingerprints,
            )
            assert (t.kind == "nf4 + double quant") == ours.quantization.double_quant
            assert g.rank == ours.method.rank
    assert gaps["nf4"].shares == pytest.approx((0.14,) * 6)


def test_a_twin_with_a_tuned_rate_may_have_chosen_another_one(tmp_path: Path) -> None:
    tuned = expand(study_of(tmp_path, STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3]}")))
    chosen = tuple(
        c
        for c in tuned
        if not c.training.steps or c.training.fixed_learning_rate == (1e-3 if kind(c) == "none" else 3e-3)
    )
    assert {k: len(t.gaps) for k, t in found(chosen, noisy(0, {})).items()} == {
        "int8": 2,
        "nf4": 2,
        "nf4 + double quant": 2,
    }


def test_without_a_twin_there_is_no_gap(cells: tuple[Cell, ...]) -> None:
    assert (
        found(
            tuple(c for c in cells if c.quantization.name != "none" or (c.method.rank is None and c.training.steps)),
            noisy(0, {}),
        )
        == {}
    )


def test_compute_dtypes_are_told_apart_where_there_are_several(tmp_path: Path) -> None:
    text = STUDY.replace(
        "[none, int8, nf4, {name: nf4, double_quant: true}]",
        "[none, int8, {name: nf4, compute_dtype: float32}, {name: nf4, compute_dtype: bfloat16}]",
    )
    text = text.replace("  - {method: {name: base}, quantization: nf4}\n", "")
    assert set(found(expand(study_of(tmp_path, text)), noisy(0, {}))) == {
        "int8",
        "nf4, compute float32",
        "nf4, compute bfloat16",
    }


def test_twins_of_which_cells_broke_are_said_to_flatter(tmp_path: Path) -> None:
    def lost(r: CellResult) -> CellResult:
        hit = (r.cell.method.rank, kind(r.cell), r.cell.seed) == (4, "none", 1)
        return r.model_copy(update={"outcome": "diverged", "readings": ()}) if hit else r

    view = make_view(filled(tmp_path, STUDY, lost))
    found = section.compute(view, "eval_loss")
    assert [[g.counterpart_broken for g in t.gaps] for t in found] == [[0, 1]] * 3
    for t in found:
        assert text.type_sentences(view, t, "eval_loss")[0].endswith(
            "1 cell of the unquantized counterparts did not finish, which may flatter them."
        )
    (shown,) = {text.line(view, g, metric("eval_loss"))[-43:] for t in found for g in t.gaps if g.counterpart_broken}
    assert shown.endswith("(1 cell of the counterpart did not finish)")


def test_a_caption_says_which_intervals_are_of_one_seed(tmp_path: Path) -> None:
    for keep, said in (
        (
            lambda c: c.method.rank != 4 or c.seed == 0,
            "Intervals of pairs with one seed are over its items alone: the noise",
        ),
        (lambda c: c.seed == 0 or not c.method.rank, "The intervals are over the items of one seed: the noise"),
    ):
        view = make_view(
            filled(
                tmp_path / said[:3],
                STUDY.replace("include", "evaluation: {lm_eval: [python-docs-cloze]}\ninclude"),
                lambda r, keep=keep: r if keep(r.cell) else None,
            )
        )  # type: ignore[misc]
        made = section.section(view)
        assert made is not None
        captions = [b.caption for b in made.blocks if isinstance(b, Figure)]
        assert any(said in c for c in captions), captions


# one seed, items, bases


def right(cells: tuple[Cell, ...], n: int = 400) -> dict[str, Items]:
    """Items of which a cell gets some right: most the same for all."""
    common = np.random.default_rng(0).normal(size=n)
    return {
        c.id: Items(
            (
                common + np.random.default_rng(i).normal(0, 0.3, n) < (0.1 if c.quantization.name == "none" else 0.0)
            ).astype(float)
        )
        for i, c in enumerate(cells)
    }


def test_one_seed_pools_a_value_and_nothing_else(cells: tuple[Cell, ...]) -> None:
    one = tuple(c for c in cells if c.seed == 0)
    items = right(one)
    gaps = found(one, lambda c: items[c.id].value, "x/acc", items)
    pooled = gaps["nf4"].pooled
    assert pooled is not None
    assert (pooled.low, pooled.p_value, pooled.verdict, pooled.pairs) == (None, None, "not decisive", 1)
    assert all(g.difference.basis == "items" for t in gaps.values() for g in t.gaps)


def test_bases_stand_for_themselves_over_items(cells: tuple[Cell, ...]) -> None:
    items = right(cells)
    gaps = found((*cells,), lambda c: items[c.id].value, "x/acc", items)
    (base,) = gaps["nf4"].bases
    assert (base.rank, base.difference.basis, base.difference.pairs) == (None, "items", 1)
    pooled = gaps["nf4"].pooled
    assert pooled is not None
    assert pooled.difference == pytest.approx(np.mean([g.difference.value for g in gaps["nf4"].gaps]))
    alone = found(tuple(c for c in cells if not c.training.steps), lambda c: items[c.id].value, "x/acc", items)
    assert {k: (len(t.gaps), len(t.bases), t.pooled) for k, t in alone.items()} == {"nf4": (0, 1, None)}


def test_an_accuracys_items_join_its_seeds_as_if_all_pairs_shared_them(cells: tuple[Cell, ...]) -> None:
    items = right(cells)
    t = found(cells, lambda c: items[c.id].value, "x/acc", items)["nf4"]
    assert t.pooled is not None and t.pooled.low is not None
    seeds = stats.ttest_1samp(per_seed(cells, lambda c: items[c.id].value, "nf4"), 0).confidence_interval(0.95)
    below = 1.959964 * np.mean([g.difference.item_errors[0] for g in t.gaps if g.difference.item_errors])
    assert t.pooled.difference - t.pooled.low == pytest.approx(math.hypot(t.pooled.difference - seeds.low, below))
    assert t.pooled.basis == "seeds and items"
