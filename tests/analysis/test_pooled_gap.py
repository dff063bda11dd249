"""Gaps pooled over ranks and seeds, against scipy.stats and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lorabench.config import Cell, expand
from tests.analysis.gaps import STUDY, found, kind, noisy, per_seed
from tests.report.stores import study_of


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, ...]:
    return expand(study_of(tmp_path_factory.mktemp("gaps"), STUDY))


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
