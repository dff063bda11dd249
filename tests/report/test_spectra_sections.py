"""The sections that show what was learned, over stores whose surface is known, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorabench.analysis.rank_use import compute_beside_base
from lorabench.record.spectrum import load_spectra
from lorabench.report import rank_use_text, truncation_text
from lorabench.report.blocks import Figure, Grid
from lorabench.report.drawing import Line
from lorabench.report.style import palette
from lorabench.report.view import View, make_view
from lorabench.sections import effective_rank, spectra, truncation
from tests import synthetic_spectra
from tests.report.learned import FILES, cells, k_of, raw, rows_of
from tests.report.stores import STUDY, filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("learned")))


# spectra and learned rank


def test_a_field_of_the_heat_map_is_the_mean_energy_rank_of_its_module(view: View) -> None:
    info = effective_rank.compute_map(view)
    assert info is not None
    plane = info.planes[info.shown]
    assert plane.label == "LoRA r=16"
    assert plane.columns == ("0", "1", "2", "3")
    assert set(plane.rows) == {"self_attn.q_proj", "mlp.down_proj"}
    for kind, row in zip(plane.rows, plane.values, strict=True):
        for layer, shown in zip(plane.columns, row, strict=True):
            by_hand = [k_of(raw(view, c)[f"model.layers.{layer}.{kind}"], 0.9) for c in cells(view, "LoRA r=16")]
            assert shown == np.mean(by_hand)
    assert [p.label for p in info.planes] == [s.label.text for s in view.analysis.summaries if s.seeds]


def test_utilisation_is_the_entropy_rank_over_the_rank(view: View) -> None:
    used = effective_rank.compute(view)
    by_label = {u.label: u for u in used}
    ranks = []
    for cell in cells(view, "LoRA r=16"):
        shares = [v / v.sum() for v in raw(view, cell).values()]
        ranks.append(np.mean([np.exp(-np.sum(p * np.log(p))) for p in shares]))
    found = by_label["LoRA r=16"]
    assert found.entropy_rank.mean == pytest.approx(np.mean(ranks))
    assert found.energy_rank.mean == np.mean(
        [k_of(v, 0.9) for c in cells(view, "LoRA r=16") for v in raw(view, c).values()]
    )
    assert found.utilisation is not None
    assert found.utilisation.mean == pytest.approx(np.mean(ranks) / 16)
    assert found.utilisation.std == pytest.approx(abs(ranks[0] - ranks[1]) / 16 / np.sqrt(2))
    assert rank_use_text.sentence(found).startswith(
        f"LoRA r=16: at rank 16 the changes use {np.mean(ranks):.3g} of 16 (entropy rank); 90 % of their energy"
        " lies in "
    )
    assert "at rank" not in rank_use_text.sentence(by_label["full"])
    info = effective_rank.compute_curve(view, used)
    assert info is not None
    assert [line.label for line in info.lines] == ["LoRA", "LoRA nf4"]
    assert info.lines[0].x == (1.0, 4.0, 16.0)
    assert info.lines[0].y[0] == pytest.approx(100)  # rank 1 is always used whole
    assert info.lines[0].y[2] == pytest.approx(100 * np.mean(ranks) / 16)
    assert [level.label for level in info.levels] == ["full"]


def test_decay_by_type_is_the_known_surface_and_opens_with_the_highest_rank(view: View) -> None:
    info = spectra.compute_types(view)
    assert info is not None
    assert info.labels[info.shown] == "LoRA r=16"
    for line in info.drawings[info.shown].lines:
        at_two = [
            v[1] / v[0]
            for c in cells(view, "LoRA r=16")
            for name, v in raw(view, c).items()
            if name.endswith(line.label)
        ]
        assert len(at_two) == 8
        assert line.y[1] == pytest.approx(np.mean(at_two), rel=1e-3)
    q, down = (
        {line.label: line.y[-1] for line in info.drawings[info.shown].lines}[kind]
        for kind in ("self_attn.q_proj", "mlp.down_proj")
    )
    assert q < down  # the surface falls faster there
    styles = [{line.label: line.style for line in d.lines} for d in info.drawings]
    assert all(s == styles[0] for s in styles)


def test_long_decays_keep_their_first_and_last_point() -> None:
    line = spectra._thinned(
        Line("x", palette(1)[0], tuple(map(float, range(1, 513))), tuple(1 / i for i in range(1, 513)))
    )
    assert len(line.x) <= spectra.MOST_POINTS
    assert line.x[:8] == tuple(map(float, range(1, 9)))
    assert line.x[-1] == 512
    assert all(y == pytest.approx(1 / x, rel=1e-3) for x, y in zip(line.x, line.y, strict=True))


def test_the_table_beside_the_base_holds_means_of_the_norms(view: View) -> None:
    rows = {b.label: b for b in compute_beside_base(view.analysis)}
    found = [s for c in cells(view, "LoRA r=4") for s in load_spectra(view.analysis.file(c.cell.id, FILES[0]))]
    norms = [np.linalg.norm(v) for c in cells(view, "LoRA r=4") for v in raw(view, c).values()]
    row = rows["LoRA r=4"]
    assert row.relative_norm == pytest.approx(np.mean(norms) / synthetic_spectra.BASE_NORM)
    ratios = [np.linalg.norm(s.singular_values) / s.alignment.projected_norm for s in found if s.alignment]
    assert row.amplification == pytest.approx((np.median(ratios[:8]) + np.median(ratios[8:])) / 2)
    assert row.random == pytest.approx(np.mean([20 * 4 / 64, 20 * 4 / np.sqrt(64 * 256)]))
    assert row.intruders == pytest.approx((3 + 2 + 1 + 0) / 4)
    assert row.looked_at == 10
    made = effective_rank.section(view)
    assert made is not None
    grid = next(b for b in made.blocks if isinstance(b, Grid))
    assert grid.rows[2][0] == "LoRA r=4"
    assert grid.rows[2][6:] == ("1.5 of 10", "3.0 %")


# ± is one thing everywhere


def test_plus_minus_is_the_95_percent_half_width_of_the_mean_in_every_section(tmp_path: Path) -> None:
    """By scipy's t interval of the two seeds' values: 12.7 / sqrt(2) = 9 standard deviations."""
    from scipy import stats

    from lorabench.sections import learning_rates

    view = make_view(filled(tmp_path, STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3]}")))

    def half(values: list[float]) -> float:
        return float(stats.t.ppf(0.975, 1) * stats.sem(values))

    used = {u.label: u.utilisation for u in effective_rank.compute(view)}["LoRA r=16"]
    assert used is not None and used.ci_half_width == pytest.approx(
        stats.t.ppf(0.975, 1) * (used.std or 0) / np.sqrt(2)
    )
    curve = effective_rank.compute_curve(view, effective_rank.compute(view))
    assert curve is not None
    assert curve.lines[0].error[-1] == pytest.approx(100 * used.ci_half_width)
    assert f"± {100 * used.ci_half_width:.1f} %" in "".join(
        effective_rank._curve(view, effective_rank.compute(view)).alternative
    )  # type: ignore[union-attr]

    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    values = [
        float(r["value"])
        for c in cells(view, "LoRA r=16")
        for r in rows_of(view, c)
        if (r["allocation"], r["rank"], r["metric"]) == ("uniform", "4", "eval_loss")
    ]
    four = next(p for p in cut.points if p.rank == 4)
    assert four.value.ci_half_width == pytest.approx(half(values))
    assert f"{np.mean(values):.3f} ± {half(values):.3f}" in truncation_text.sentence(cut, "eval_loss")
    drawn = truncation.drawing(view, "eval_loss", (cut,))
    assert next(x for x in drawn.lines if x.label == "LoRA r=16, cut").error[2] == pytest.approx(half(values))

    tuned = view.analysis.tunings[0].results[0]
    assert tuned.ci_half_width == pytest.approx(half(list(tuned.losses)))
    assert learning_rates.drawing(view).lines[0].error[0] == tuned.ci_half_width
    assert f"± {tuned.ci_half_width:.3f}" in learning_rates.table(view).rows[0][1]
    captions = "".join(
        b.caption
        for m in (effective_rank, truncation, learning_rates)
        for b in m.section(view).blocks
        if isinstance(b, Figure)
    )  # type: ignore[union-attr]
    assert "standard deviation" not in captions
    assert captions.count("95 % interval") >= 4


def test_one_seed_has_no_bars(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]")))
    for cut in truncation.compute(view, "eval_loss"):
        assert "±" not in truncation_text.sentence(cut, "eval_loss")
    assert all(
        e is None
        for line in truncation.drawing(view, "eval_loss", truncation.compute(view, "eval_loss")).lines
        for e in line.error
    )


def test_no_section_says_standard_deviation() -> None:
    """Each would be a second meaning of ± and of bars."""
    package = Path(truncation.__file__).parents[1]
    for folder in ("sections", "report", "exporters"):
        for file in (package / folder).glob("*.py"):
            assert "standard deviation" not in file.read_text(encoding="utf-8"), file.name
