"""Quantized conditions against their twins, against scipy.stats and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.conditions import replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.quantization_gap import TypeGap, quantization_gaps
from lorabench.analysis.verdict import Verdicts
from lorabench.config import Cell, expand
from lorabench.config.settings import ComparisonSpec
from lorabench.record.items import Items
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult
from lorabench.report import quantization_gap_text as text
from lorabench.report.blocks import Figure
from lorabench.report.view import make_view
from lorabench.sections import quantization_gap as section
from tests.report.stores import filled, renamed, study_of

STUDY = """
schema: 1
name: gaps
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 40, learning_rate: 3e-3}
grid:
  method.rank: [1, 4]
  quantization: [none, int8, nf4, {name: nf4, double_quant: true}]
include:
  - {method: {name: full}, quantization: none}
  - {method: {name: base}, quantization: none}
  - {method: {name: base}, quantization: nf4}
seeds: [0, 1, 2]
"""
BYTES = {"none": 100.0, "int8": 26.0, "nf4": 14.0}
Value = Callable[[Cell], float | None]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, ...]:
    return expand(study_of(tmp_path_factory.mktemp("gaps"), STUDY))


def kind(c: Cell) -> str:
    return c.quantization.name + ("+" if c.quantization.double_quant else "")


def found(
    cells: tuple[Cell, ...],
    value: Value,
    metric: str = "eval_loss",
    items: dict[str, Items] | None = None,
    **rules: float,
) -> dict[str, TypeGap]:
    """The gaps of cells with these values, by type; None is a cell that diverged."""
    rows = [
        {
            "condition": c.condition_id,
            "seed": c.seed if c.training.steps else None,
            "cell": c.id,
            "outcome": "diverged" if (v := value(c)) is None else "finished",
            metric: v,
            "weight_bytes": BYTES[c.quantization.name] * (2 if c.model.name == "hub/large" else 1),
        }
        for c in cells
    ]
    data = pd.DataFrame(rows)
    data[metric] = data[metric].astype("float64")
    groups = replicates(cells)
    pairing = Pairing(data, lambda cell: {metric: items[cell]} if items else {})
    return {
        t.kind: t
        for t in quantization_gaps(groups, aggregate(groups, data), Verdicts(pairing, ComparisonSpec(**rules)), metric)
    }  # type: ignore[arg-type]


def noisy(seed: int, shift: dict[str, float], noise: float = 0.01) -> Value:
    """2 + a seed's own part + what the type costs + noise of the cell."""
    generator = np.random.default_rng(seed)
    seeds, cell = generator.normal(0, 0.1, 10), {}

    def value(c: Cell) -> float:
        own = cell.setdefault(c.id, generator.normal(0, noise))
        return float(2 + seeds[c.seed] + shift.get(kind(c), 0.0) + own)

    return value


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


# pooled


def per_seed(cells: tuple[Cell, ...], value: Value, name: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    """By hand: the mean over ranks of the gap, for each seed."""
    known = {(c.method.rank, kind(c), c.seed): value(c) for c in cells if c.method.rank}
    return [float(np.mean([known[r, name, s] - known[r, "none", s] for r in (1, 4)])) for s in seeds]  # type: ignore[operator]


def test_the_pooled_gap_is_a_t_test_over_the_seeds_means(cells: tuple[Cell, ...]) -> None:
    value = noisy(1, {"nf4": 0.05, "int8": 0.01, "nf4+": 0.06})
    gaps = found(cells, value)
    ps = {}
    for name, told in (("int8", "int8"), ("nf4", "nf4"), ("nf4+", "nf4 + double quant")):
        pooled, oracle = gaps[told].pooled, stats.ttest_1samp(per_seed(cells, value, name), 0)
        assert pooled is not None
        interval = oracle.confidence_interval(0.95)
        assert (pooled.low, pooled.high, pooled.p_value) == pytest.approx((interval.low, interval.high, oracle.pvalue))
        assert (pooled.pairs, pooled.basis) == (3, "seeds")
        ps[told] = oracle.pvalue
    first, second, third = sorted(ps, key=lambda k: ps[k])
    adjusted = {
        first: 3 * ps[first],
        second: max(3 * ps[first], 2 * ps[second]),
        third: max(3 * ps[first], 2 * ps[second], ps[third]),
    }  # Holm
    assert {k: t.pooled.p_adjusted for k, t in gaps.items() if t.pooled} == pytest.approx(
        {k: min(1, p) for k, p in adjusted.items()}
    )


def test_only_seeds_at_which_all_pairs_finished_are_pooled(cells: tuple[Cell, ...]) -> None:
    value = noisy(2, {"nf4": 0.05})
    pooled = found(cells, lambda c: None if (c.method.rank, kind(c), c.seed) == (4, "nf4", 1) else value(c))[
        "nf4"
    ].pooled
    assert pooled is not None
    assert pooled.pairs == 2
    assert pooled.difference == pytest.approx(np.mean(per_seed(cells, value, "nf4", (0, 2))))
    broken = found(cells, lambda c: None if (c.method.rank, kind(c)) == (4, "nf4") else value(c))["nf4"]
    assert (len(broken.gaps), broken.expected) == (1, 2)
    torn = found(
        cells,
        lambda c: None if kind(c) == "nf4" and (c.method.rank == 4) == (c.seed == 0) and c.training.steps else value(c),
    )["nf4"]
    assert len(torn.gaps) == 2
    assert torn.pooled is None


def test_a_type_of_which_cells_broke_is_not_called_as_good(cells: tuple[Cell, ...]) -> None:
    """One of six nf4 cells diverged; of the others the gap is a hundredth of the margin, or beyond it."""
    for cost, verdict in ((0.0002, "not decisive"), (-3.0, "not decisive"), (3.0, "worse")):
        value = noisy(2, {"nf4": cost})
        whole = found(cells, value, loss_margin=0.1)["nf4"].pooled
        lost = found(
            cells,
            lambda c, value=value: None if (c.method.rank, kind(c), c.seed) == (4, "nf4", 1) else value(c),
            loss_margin=0.1,
        )["nf4"]  # type: ignore[misc]
        assert whole is not None and lost.pooled is not None
        assert (whole.broken, lost.pooled.broken) == (0, 1)
        assert whole.verdict == ("equivalent" if abs(cost) < 0.1 else "worse" if cost > 0 else "better")
        assert lost.pooled.verdict == verdict
        assert [g.broken for g in lost.gaps] == [0, 1]


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


@pytest.mark.parametrize(("cost", "verdict"), [(0.1, "worse"), (-0.1, "better"), (0.004, "equivalent")])
def test_the_verdict_is_that_of_the_studys_margin(cells: tuple[Cell, ...], cost: float, verdict: str) -> None:
    pooled = found(cells, noisy(3, {"nf4": cost}, 0.001))["nf4"].pooled
    assert pooled is not None
    assert pooled.verdict == verdict
    loose = found(cells, noisy(3, {"nf4": cost}, 0.3))["nf4"].pooled
    assert loose is not None
    assert loose.verdict == "not decisive"


def test_pooled_intervals_cover_a_gap_that_seeds_move_as_often_as_they_say(cells: tuple[Cell, ...]) -> None:
    kept = tuple(c for c in cells if c.method.rank and kind(c) in ("none", "nf4"))
    generator, covered = np.random.default_rng(4), 0
    for _ in range(80):
        moved = dict(
            zip(range(3), generator.normal(0, 0.02, 3), strict=True)
        )  # by which a seed changes the gap of all ranks: pairs do not repeat it
        noise = {c.id: generator.normal(0, 0.005) for c in kept}
        pooled = found(kept, lambda c, m=moved, n=noise: 2 + n[c.id] + (0.05 + m[c.seed] if kind(c) == "nf4" else 0))[
            "nf4"
        ].pooled  # type: ignore[misc]
        assert pooled is not None and pooled.low is not None and pooled.high is not None
        covered += pooled.low <= 0.05 <= pooled.high
    assert covered / 80 > 0.88


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
