"""Shares of a grid's variance: hand-worked numbers, an independent two-way table, and grids with holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorabench.analysis.importance import Effect, Importance, _whole_part, importances, variances
from lorabench.record.result import CellResult
from lorabench.report.importance_text import sentence
from lorabench.report.view import make_view
from lorabench.sections import importance as section
from tests.report.stores import STUDY, filled

# two ranks by three storages; the sum of an effect of rank, one of storage, and a seed's shift
LOSS = {(1, "none"): 5.0, (1, "nf4"): 6.0, (4, "none"): 3.0, (4, "nf4"): 4.0, (16, "none"): 1.0, (16, "nf4"): 2.0}


def given(noise: float = 0.0, lost: tuple[int, ...] = ()) -> object:
    def change(r: CellResult) -> CellResult | None:
        c = r.cell
        if c.method.rank is None or r.outcome != "finished":
            return r
        if c.method.rank in lost and c.quantization.name == "nf4":
            return None
        value = LOSS[c.method.rank, c.quantization.name] + 10 * c.seed + noise * (-1) ** (c.seed + c.method.rank // 3)
        return r.model_copy(
            update={
                "readings": tuple(
                    x.model_copy(update={"value": value}) if x.metric == "eval_loss" else x for x in r.readings
                )
            }
        )

    return change


def of(folder: Path, change: object, text: str = STUDY) -> tuple[tuple[Importance, ...], str]:
    view = make_view(filled(folder, text, change))  # type: ignore[arg-type]
    return importances(view.analysis.groups, view.analysis.data, "eval_loss", view.analysis.study)


def test_hand_worked_shares_of_two_by_two() -> None:
    # means 2, 3 | 4, 9: grand 4.5; rows -2, +2; columns -1.5, +1.5; what is left -+1 everywhere
    found = variances(np.array([[2.0, 3.0], [4.0, 9.0]]))
    assert found == {(0,): pytest.approx(4.0), (1,): pytest.approx(2.25), (0, 1): pytest.approx(1.0)}
    assert sum(found.values()) == pytest.approx(np.var([2, 3, 4, 9]))


def test_a_product_of_three_axes_is_all_interaction_and_parts_add_up() -> None:
    signs = np.array([-1.0, 1.0])
    found = variances(signs[:, None, None] * signs[None, :, None] * signs[None, None, :])
    assert found.pop((0, 1, 2)) == pytest.approx(1.0)
    assert all(v == pytest.approx(0.0) for v in found.values())
    y = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert sum(variances(y).values()) == pytest.approx(y.var())


def test_an_additive_grid_has_shares_by_hand_and_a_seeds_shift_is_no_noise(tmp_path: Path) -> None:
    (found,), why = of(tmp_path, given())
    assert why is None
    assert (found.conditions, found.seeds, found.left_out) == (6, 2, {})
    # ranks shift by 2, 0, -2 (variance 8/3), storages by -+ 1/2 (1/4)
    assert {e.axes: e.share for e in found.effects} == {
        ("method.rank",): pytest.approx((8 / 3) / (8 / 3 + 1 / 4)),
        ("quantization",): pytest.approx((1 / 4) / (8 / 3 + 1 / 4)),
        ("method.rank", "quantization"): pytest.approx(0, abs=1e-12),
    }
    assert all(
        e.noise == pytest.approx(0, abs=1e-12) for e in found.effects
    )  # ten nats between seeds, the same for all


def test_noise_and_p_value_are_those_of_a_table_of_squares(tmp_path: Path) -> None:
    from scipy import stats

    (found,), _ = of(tmp_path, given(noise=0.6))
    # seed 0 and 1 differ by 1.2 more or less: rank 1 is +-, ranks 4 and 16 by the parity of 1 and 5: both -+
    y = np.array([[v + 10 * s + 0.6 * (-1) ** (s + rank // 3) for s in (0, 1)] for (rank, _), v in LOSS.items()])
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    s2 = (rest**2).sum() / 5
    rank = next(e for e in found.effects if e.axes == ("method.rank",))
    assert rank.noise == pytest.approx(s2 / 2 * 2 / 6 / y.mean(1).var())
    between = 2 * 2 * ((y.reshape(3, 2, 2).mean((1, 2)) - y.mean()) ** 2).sum()
    assert rank.p_value == pytest.approx(stats.f.sf(between / 2 / s2, 2, 5))


def test_a_grid_with_a_hole_is_reduced_to_its_largest_whole_part_and_says_so(tmp_path: Path) -> None:
    (found,), _ = of(tmp_path, given(lost=(16,)))
    assert found.axes == {"method.rank": ("1", "4"), "quantization": ("none", "nf4")}
    assert found.left_out == {"method.rank": ("16",)}
    assert found.conditions == 4


def test_nothing_is_said_of_a_grid_without_results(tmp_path: Path) -> None:
    found, why = of(tmp_path, lambda r: None)
    assert found == () and why == "no reading"


def test_the_value_with_most_gaps_goes_first() -> None:
    present = {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}
    assert _whole_part([3, 2], present) == [(0, 1), (0, 1)]
    assert _whole_part([2, 2], set()) == [(), ()]


def test_the_section_speaks_of_each_axis_and_says_that_a_tuned_rate_is_none(tmp_path: Path) -> None:
    text = STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3]}").replace(
        "training.learning_rate: 1e-3", "training.learning_rate: {tune: [1e-3, 3e-3]}"
    )
    view = make_view(filled(tmp_path, text, given()))  # type: ignore[arg-type]
    made = section.section(view)
    assert made is not None
    said, figure = made.blocks
    assert (
        said.text
        == "Of the variance in held-out loss between the 6 conditions of the grid, 91.4 % goes with rank, 8.6 % with"
        " quantization, 0.0 % with combinations of them."
    )  # type: ignore[union-attr]
    assert "so the learning rate is not an axis" in figure.caption  # type: ignore[union-attr]
    assert "left out" not in figure.caption.lower()  # type: ignore[union-attr]


@pytest.mark.parametrize(("p_values", "opens"), [((0.4, 0.3), "No axis can be told"), ((0.01, 0.3), "Of the")])
def test_shares_that_noise_could_have_made_open_with_that(p_values: tuple[float, float], opens: str) -> None:
    effects = (Effect(("method.rank",), 0.97, 0.1, p_values[0]), Effect(("quantization",), 0.03, 0.1, p_values[1]))
    axes = {"method.rank": ("1", "4"), "quantization": ("none", "nf4")}
    words = sentence(Importance("eval_loss", "", axes, {}, 4, 2, 0.1, effects))
    assert words.startswith(opens) and "97.0 % goes with rank" in words
