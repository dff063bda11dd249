"""What the report says of quantization, over a store whose surface is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorabench.report import quantization_gap_text
from lorabench.report.blocks import Figure, Grid
from lorabench.report.view import View, make_view
from lorabench.sections import quantization_gap, rank_curve
from tests import synthetic
from tests.report.ranked import STUDY, blocks, plotted
from tests.report.stores import filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("ranks"), STUDY))


def test_a_sentence_holds_memory_gap_interval_and_verdict(view: View) -> None:
    (gap,) = quantization_gap.compute(view, "eval_loss")
    assert gap.pooled is not None and gap.pooled.low is not None and gap.pooled.high is not None
    trained, base = quantization_gap_text.type_sentences(view, gap, "eval_loss")
    assert (
        trained.replace("\N{NO-BREAK SPACE}", " ")
        == f"nf4 stores the weights in 14 % of the bytes and raises held-out loss by {gap.pooled.difference:.3f} nats "
        f"[{gap.pooled.low:.3f}, {gap.pooled.high:.3f}] (4 pairs of conditions, 3 seeds): equivalent within 0.15 nats."
    )
    assert gap.pooled.low < synthetic.QUANTIZED["nf4"] < gap.pooled.high
    assert base.startswith("nf4 without training raises held-out loss by 0.050 nats")
    better = replace(
        gap,
        pooled=replace(
            gap.pooled, difference=-0.05, low=-0.08, high=-0.02, margin=0.01, p_equivalent=1.0, p_adjusted=0.001
        ),
        bases=(),
    )
    (said,) = quantization_gap_text.type_sentences(view, better, "eval_loss", stored=False)
    assert (
        said.replace("\N{NO-BREAK SPACE}", " ")
        == "nf4 lowers held-out loss by 0.050 nats [0.020, 0.080] (4 pairs of conditions, 3 seeds): better."
    )


def test_an_accuracy_that_falls_is_a_cost_in_points(view: View) -> None:
    (gap,) = quantization_gap.compute(view, "python-docs-cloze/acc")
    assert gap.pooled is not None
    cost = -gap.pooled.difference
    trained, _ = quantization_gap_text.type_sentences(view, gap, "python-docs-cloze/acc", stored=False)
    assert trained.startswith(
        f"nf4 {'lowers' if cost > 0 else 'raises'} python-docs-cloze accuracy by {100 * abs(cost):.1f} points ["
    )
    assert "3 seeds and items" in trained
    info = quantization_gap.drawing(view, (gap,), "python-docs-cloze/acc")
    assert info.y.title == "gap (points)"
    assert info.lines[0].y == pytest.approx([100 * g.difference.value for g in gap.gaps])
    assert info.band == (-1.0, 1.0)


def test_the_figure_has_zero_margin_and_asymmetric_bars(view: View) -> None:
    found = quantization_gap.compute(view, "eval_loss")
    info = quantization_gap.drawing(view, found, "eval_loss")
    assert info.x.names == ("1", "2", "8", "32")
    for g, y, up, down in zip(found[0].gaps, info.lines[0].y, info.lines[0].error, info.lines[0].below, strict=True):
        low, high = g.difference.interval  # type: ignore[misc]
        assert (y - down, y + up) == pytest.approx((low, high))  # type: ignore[operator]
    figure = blocks(quantization_gap.section(view), Figure)[0]
    assert isinstance(figure, Figure)
    drawn = plotted(figure)
    band, zero = drawn["layout"]["shapes"]
    assert (band["type"], band["y0"], band["y1"], zero["y0"], zero["y1"]) == ("rect", -0.15, 0.15, 0, 0)
    assert drawn["data"][0]["x"] == ["1", "2", "8", "32"]
    assert len(figure.alternative) == 5


def test_the_table_has_a_row_for_every_pair(view: View) -> None:
    (table,) = blocks(quantization_gap.section(view), Grid)
    assert isinstance(table, Grid)
    assert [r[0] for r in table.rows] == [f"LoRA r={r} nf4" for r in (1, 2, 8, 32)] + ["base nf4"]
    assert [r[-2:] for r in table.rows] == [("3", "14 %")] * 4 + [("untrained", "14 %")]
    assert all(len(r) == len(table.heads) for r in table.rows)
    assert table.rows[-1][1].startswith("+0.050 [")


def test_without_ranks_gaps_stand_by_model(tmp_path: Path) -> None:
    text = STUDY.replace(
        "grid:\n  method.rank: [1, 2, 8, 32]\n", "grid:\n  model: [lorabench/tiny-300k, lorabench/tiny-1m]\n"
    ).replace("{name: lora, alpha: 16}", "base")
    bases = make_view(filled(tmp_path, text[: text.index("include:")] + text[text.index("seeds:") :]))
    (gap,) = quantization_gap.compute(bases, "eval_loss")
    assert (gap.gaps, len(gap.bases), gap.pooled) == ((), 2, None)
    info = quantization_gap.drawing(bases, (gap,), "eval_loss")
    assert (info.x.names, info.lines[0].x) == (("tiny-300k", "tiny-1m"), (0.0, 1.0))
    (said,) = quantization_gap_text.type_sentences(bases, gap, "eval_loss")
    assert said.startswith(
        "nf4 stores the weights in 14 % of the bytes and without training raises held-out loss by 0.050 nats ["
    )
    assert "(tiny-300k); raises held-out loss by 0.050 nats" in said
    assert rank_curve.section(bases) is None
    section = quantization_gap.section(bases)
    assert blocks(section, Figure) and blocks(section, Grid)
