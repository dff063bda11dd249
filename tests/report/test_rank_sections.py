"""What the report says of ranks and of quantization, over a store whose surface is known."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lorabench.analysis.rank_curve import RankDifference, SmallestSufficientRank
from lorabench.analysis.saturation import Fit, NoFit, ParameterEstimate
from lorabench.report import quantization_gap_text, rank_curve_text
from lorabench.report.blocks import Figure, Points
from lorabench.report.figures import draw
from lorabench.report.view import View, make_view
from lorabench.sections import quantization_gap, rank_curve
from tests import synthetic
from tests.report.ranked import STUDY, blocks, plotted
from tests.report.stores import ONLY_FULL, filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("ranks"), STUDY))


# rank


def test_a_figure_shows_means_intervals_the_knee_and_the_fit(view: View) -> None:
    info = rank_curve.compute(view, "eval_loss")
    assert info is not None
    for line, curve in zip(info.lines, rank_curve.curves(view, "eval_loss"), strict=True):
        own = [view.analysis.summary(p.condition).statistics["eval_loss"] for p in curve.points]
        assert line.y == tuple(s.mean for s in own)
        assert line.error == tuple(s.ci_half_width for s in own)
        assert line.error[0] == pytest.approx(4.302653 * own[0].std / math.sqrt(3))  # type: ignore[operator]
    true = {r: synthetic.GAP / math.sqrt(1 + r) - synthetic.GAP / math.sqrt(33) for r in (1, 2, 8, 32)}
    assert min(r for r, gap in true.items() if gap < 0.15) == 8
    assert [(r.x, r.y) for r in info.rings] == [(8.0, line.y[2]) for line in info.lines]
    figure = blocks(rank_curve.section(view), Figure)[0]
    assert isinstance(figure, Figure)
    drawn = plotted(figure)
    assert [t["name"] for t in drawn["data"]] == [
        "LoRA",
        "LoRA nf4",
        "smallest sufficient rank",
        "full",
        "base",
        "base nf4",
    ]
    assert drawn["data"][2]["marker"]["color"] == [line.style.colour for line in info.lines]
    paths = [s for s in drawn["layout"]["shapes"] if s["type"] == "path"]
    assert [p["line"]["color"] for p in paths] == [t.colour for t in info.trends]
    fits = [c.fit for c in rank_curve.curves(view, "eval_loss") if c.fit]
    assert len(paths) == len(fits) > 0
    start = re.match(r"M([\d.]+),([\d.]+)L", paths[0]["path"])
    assert start is not None
    assert float(start[2]) == pytest.approx(fits[0].at(float(start[1])), rel=1e-5)


def test_a_far_reference_is_named_at_the_axis_edge_with_its_value(view: View) -> None:
    figure = blocks(rank_curve.section(view), Figure)[0]
    assert isinstance(figure, Figure)
    assert "named at its edge beside an arrow: base at 3.200, base nf4 at 3.250." in figure.caption
    span = figure.plot.layout.yaxis.range
    assert span[0] > 1.5 and span[1] < 3.1  # the curves are not pressed flat
    (arrow,) = figure.plot.layout.annotations
    assert arrow.showarrow and (arrow.yref, arrow.y, arrow.ay > 0) == (
        "paper",
        1,
        True,
    )  # upwards, ending at the upper edge
    assert re.sub("<[^>]*>", "", arrow.text).split("\u25a0 ")[1:] == ["base: 3.2", "base nf4: 3.25"]
    lines = {trace.name: trace.y for trace in figure.plot.data}
    assert lines["base"] == (
        pytest.approx(3.2),
        pytest.approx(3.2),
    )  # there for who zooms out, and in the figure's data


def test_a_reference_below_the_axis_has_its_arrow_at_the_lower_edge(view: View) -> None:
    info = rank_curve.compute(view, "eval_loss")
    assert info is not None
    low = replace(info, levels=(replace(info.levels[0], label="full", y=-7.0),))
    (arrow,) = draw(rank_curve.legible(low)).layout.annotations
    assert (arrow.y, arrow.ay < 0) == (0, True)
    assert "full: -7" in arrow.text


def test_bars_that_would_press_the_curves_flat_are_cut(view: View) -> None:
    info = rank_curve.compute(view, "eval_loss")
    assert info is not None
    huge = replace(info, lines=tuple(replace(line, error=(5.0,) * 4) for line in info.lines))
    shown = rank_curve.legible(huge)
    assert shown.y.span is not None
    assert shown.y.span[1] - shown.y.span[0] < 3 * (max(max(line.y) for line in info.lines) - 2.0 + 0.1)
    assert draw(shown).layout.yaxis.range == shown.y.span


def test_sentences_hold_the_numbers_of_the_curve(view: View) -> None:
    curve = rank_curve.curves(view, "eval_loss")[0]
    (step,) = curve.knee.passed
    assert curve.knee.failed is not None and curve.knee.failed.bound is not None and step.bound is not None
    said = rank_curve_text.sentences((curve,))
    assert said[0].startswith(
        "LoRA: rank 8 is the smallest that is non-inferior to rank 32, the best, within 0.15 nats (one-sided 95 %"
        f" bound {step.bound:.3f}, 3 seeds); rank 2 is not shown to be (bound {curve.knee.failed.bound:.3f}, 3 seeds)."
    )
    assert "LoRA: rank 32, the best, is the highest tried, so a higher one may do better." in said
    edge = replace(curve, knee=SmallestSufficientRank(32, 0.02, (), RankDifference(8, 0.045, 3)), fit=None)
    assert (
        rank_curve_text.knee_sentence(edge)
        == "Rank 32 has the best mean; rank 8 is not shown to be within 0.02 nats of it (one-sided 95 % bound 0.045, 3"
        " seeds)."
    )
    fit = Fit(
        ParameterEstimate(1.9, 1.8, 2.0),
        ParameterEstimate(0.5, 0.4, 0.6),
        ParameterEstimate(0.9, 0.7, 1.1),
        0.4,
        "seeds",
        3,
        True,
    )
    assert (
        rank_curve_text.fit_sentence(replace(curve, fit=fit)).replace("\N{NO-BREAK SPACE}", " ")
        == "The curve 1.900 + 0.500 r^−0.900 fits (lack of fit p = 0.4): extrapolated, its floor is 1.900 nats [1.800,"
        " 2.000] over 3 seeds."
    )
    assert "has not levelled off by rank 32, so no floor is named" in rank_curve_text.fit_sentence(
        replace(curve, fit=replace(fit, levelled=False))
    )
    wide = replace(fit, c=ParameterEstimate(1.9, 1.0, 2.8))
    said = rank_curve_text.fit_sentence(replace(curve, fit=wide))
    assert "[1.000, 2.800], is wider than the whole effect of rank." in said


def test_what_curves_have_in_common_is_said_once(view: View) -> None:
    curves = tuple(
        replace(c, fit=None, unfitted=NoFit("not monotone", (32, 4), beyond_noise=True), family=f)
        for c in rank_curve.curves(view, "eval_loss")[:1]
        for f in ("a", "b", "c")
    )
    why = "no curve is fitted, since rank 32 is worse than rank 4 beyond noise."
    assert rank_curve_text.sentences(curves)[-1] == f"All curves: {why}"
    assert rank_curve_text.sentences((*curves[:2], replace(curves[2], unfitted=None)))[-1] == f"a; b: {why}"


def test_one_seed_names_no_rank_and_no_pooled_interval(tmp_path: Path) -> None:
    one = make_view(filled(tmp_path, STUDY.replace("[0, 1, 2]", "[0]")))
    section = rank_curve.section(one)
    said = [s for b in blocks(section, Points) for s in b.items]  # type: ignore[union-attr]
    assert (
        "LoRA; LoRA nf4: no smallest sufficient rank is named, since with one seed the noise between seeds is"
        " unknown." in said
    )
    info = rank_curve.compute(one, "eval_loss")
    assert info is not None and info.rings == ()
    (gap,) = quantization_gap.compute(one, "eval_loss")
    trained, base = quantization_gap_text.type_sentences(one, gap, "eval_loss")
    assert trained.endswith(
        "(4 pairs of conditions, 1 seed, so no interval: the noise between seeds is unknown): not decisive."
    )
    assert re.fullmatch(
        r"nf4 without training raises held-out loss by 0\.050 nats \[0\.0\d\d,\s0\.0\d\d\] \(95 % intervals over"
        r" items\)\.",
        base,
    )


def test_several_models_get_a_figure_each(tmp_path: Path) -> None:
    text = STUDY.replace("grid:\n", "grid:\n  model: [lorabench/tiny-300k, lorabench/tiny-1m]\n").replace(
        "[0, 1, 2]", "[0, 1]"
    )
    several = make_view(filled(tmp_path, text.replace("[1, 2, 8, 32]", "[1, 8]")))
    section = rank_curve.section(several)
    figures = [b for b in blocks(section, Figure) if isinstance(b, Figure)]
    assert [f.title for f in figures][:2] == [f"held-out loss against rank, {m}" for m in ("tiny-300k", "tiny-1m")]
    assert len({f.name for f in figures}) == 4
    for model, figure in zip(("tiny-300k", "tiny-1m"), figures, strict=False):
        assert [t["name"] for t in plotted(figure)["data"]][:2] == ["LoRA", "LoRA nf4"]
        assert all(model in words for words in figure.alternative)


def test_without_two_ranks_or_without_quantization_there_is_no_section(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, ONLY_FULL))
    assert rank_curve.section(view) is None
    assert quantization_gap.section(view) is None
