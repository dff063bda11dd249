"""The section on predicted memory: parts that stack to the prediction beside the measured peak."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorabench.analysis.memory_prediction import PeakPair
from lorabench.config import expand
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.record.result import CellResult
from lorabench.report import predicted_memory_text
from lorabench.report.bars import BarPart, Bars, draw_bars
from lorabench.report.blocks import Figure, Grid, Section, Text
from lorabench.report.page import write_report
from lorabench.report.style import BLUE, GREY
from lorabench.report.tables import table_of
from lorabench.report.view import View, make_view
from lorabench.sections import predicted_memory
from lorabench.sections.predicted_memory import MOST, WHOLE
from tests import synthetic
from tests.report.stores import ONLY_FULL, fill, filled, renamed, study_of

PEAK, PREDICTED = "train_peak_bytes", "predicted_train_peak_bytes"
HOSTILE = "</script><img src=x onerror=alert(1)><b>x"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("memory")))


def shown(view: View) -> Section:
    made = predicted_memory.section(view)
    assert made is not None
    return made


def figure_of(section: Section) -> tuple[Figure, dict[str, Any]]:
    figure = next(b for b in section.blocks if isinstance(b, Figure))
    plot = json.loads(figure.plot.to_json())
    assert isinstance(plot, dict)
    return figure, plot


def without_parts(result: CellResult) -> CellResult:
    return result.model_copy(update={"readings": tuple(r for r in result.readings if r.metric not in PREDICTED_PARTS)})


def pair(
    label: str, predicted: float, family: str = "LoRA", measured: float | None = None, parts: tuple[float, ...] = ()
) -> PeakPair:
    return PeakPair(label, predicted, measured, "", family, dict(zip(PREDICTED_PARTS, parts, strict=False)))


# what is decided


def test_the_synthetic_parts_are_whole_bytes_that_sum_to_the_prediction(tmp_path: Path) -> None:
    for cell in expand(study_of(tmp_path)):
        drawn = synthetic.expected(cell)
        parts = [drawn[m] for m in PREDICTED_PARTS if m in drawn]
        assert bool(parts) == (PREDICTED in drawn) == (cell.training.steps > 0)
        if parts:
            assert len(parts) == len(PREDICTED_PARTS)
            assert sum(parts) == drawn[PREDICTED]
            assert all(n == int(n) >= 0 for n in parts)


def test_a_bar_holds_the_means_over_seeds_in_the_axis_unit(view: View) -> None:
    pairs = predicted_memory.compute(view)
    info = predicted_memory.compute_bars(pairs)
    assert info.x == "training peak (MB)"
    assert info.labels == tuple(s.label.text for s in view.analysis.summaries if s.seeds)
    by_part = {part.label: part.values for part in info.parts}
    for i, label in enumerate(info.labels):
        results = view.analysis.of_condition(
            next(s.condition for s in view.analysis.summaries if s.label.text == label)
        )
        assert len(results) == 2
        for name in PREDICTED_PARTS:
            assert by_part[metric(name).label][i] == pytest.approx(
                statistics.fmean(r.value(name) or 0.0 for r in results) / 1e6
            )
        assert info.ends[i] == pytest.approx(statistics.fmean(r.value(PREDICTED) or 0.0 for r in results) / 1e6)
        assert info.marks[i] == pytest.approx(statistics.fmean(r.value(PEAK) or 0.0 for r in results) / 1e6)
    assert set(info.notes) <= {"+1.0 %", "+1.00 %", "−2.0 %"}


def test_a_part_that_no_condition_has_is_left_out_and_gigabytes_are_named() -> None:
    info = predicted_memory.compute_bars(
        [
            pair("a", 3e9, parts=(2e9, 0, 0, 0, 0, 1e9, 0, 0)),
            pair("b", 5e8, measured=6e8, parts=(5e8, 0, 0, 0, 0, 0, 0, 0)),
        ]
    )
    assert info.x == "training peak (GB)"
    assert [(p.label, p.values) for p in info.parts] == [("base weights", (2.0, 0.5)), ("activations", (1.0, 0.0))]
    assert info.marks == (None, 0.6)
    assert info.notes == ("", "−17 %")
    assert predicted_memory.compute_bars([pair("a", 1e6 + 10, measured=1e6)]).notes == ("< 0.01 %",)


def test_the_sentence_names_the_part_that_grows_most() -> None:
    low, high = (
        pair("small", 3e6, parts=(1e6, 0, 0, 0, 0, 2e6, 0, 0)),
        pair("big", 9e6, parts=(2e6, 0, 0, 0, 4e6, 3e6, 0, 0)),
    )
    said = predicted_memory_text.growth((high, low))
    assert (
        said
        == "From small (3.00 MB, the least) to big (9.00 MB, the most) the prediction grows by 6.00 MB; the part that"
        " grows most is optimizer state, by 4.00 MB."
    )
    assert (
        predicted_memory_text.growth((low,))
        == predicted_memory_text.growth((low, low))
        == predicted_memory_text.growth((pair("a", 1.0), pair("b", 2.0)))
        == ""
    )


def test_of_very_many_conditions_the_ends_of_each_family_are_drawn_and_all_are_told() -> None:
    few = [pair(f"LoRA r={i}", 1e6 + i) for i in range(MOST)]
    assert predicted_memory.shown_pairs(few) == tuple(few)
    many = [pair(f"{family} r={i}", 1e6 + i, family) for i in range(MOST) for family in ("LoRA", "DoRA")]
    assert [p.label for p in predicted_memory.shown_pairs(many)] == [
        "LoRA r=0",
        "DoRA r=0",
        f"LoRA r={MOST - 1}",
        f"DoRA r={MOST - 1}",
    ]
    assert predicted_memory.shown_pairs(odd := [pair(str(i), 1e6, str(i)) for i in range(MOST + 9)]) == tuple(
        odd[:MOST]
    )
    figure = predicted_memory._figure(many)
    assert f"Of {2 * MOST} conditions 4 are drawn" in figure.caption
    assert len(figure.alternative) == 2 * MOST


# what is drawn


def test_the_traces_stack_to_the_prediction_and_the_marks_are_the_measured(view: View) -> None:
    figure, plot = figure_of(shown(view))
    bars, marks = (
        [t for t in plot["data"] if t["type"] == "bar"],
        next(t for t in plot["data"] if t["type"] == "scatter"),
    )
    sums: Counter[str] = Counter()
    for trace in bars:
        assert trace["orientation"] == "h"
        sums.update(dict(zip(trace["y"], trace["x"], strict=True)))
    pairs = {p.label: p for p in predicted_memory.compute(view)}
    assert {k: pytest.approx(v) for k, v in sums.items()} == {label: p.predicted / 1e6 for label, p in pairs.items()}
    assert dict(zip(marks["y"], marks["x"], strict=True)) == {
        label: pytest.approx((p.measured or 0) / 1e6) for label, p in pairs.items()
    }
    assert plot["layout"]["barmode"] == "relative"
    assert plot["layout"]["xaxis"]["title"]["text"] == "training peak (MB)"
    assert len({(t["marker"]["color"], "pattern" in t["marker"]) for t in bars}) == len(bars) == len(PREDICTED_PARTS)
    assert "font" not in plot["layout"] and "color" not in json.dumps(plot["layout"])  # the page's own
    assert len(figure.alternative) == len(pairs)
    assert figure.alternative[0].startswith("LoRA r=1: predicted 3.49 MB (base weights 1.3")
    assert figure.alternative[0].endswith("; measured 3.45 MB (error +1.0 %)")


def test_the_figure_grows_with_its_bars_and_few_stay_thin() -> None:
    def plot_of(n: int, label: str = "LoRA r=1") -> Any:
        numbers, words = (1.0,) * n, ("",) * n
        return draw_bars(
            Bars("x", (label,) * n, (BarPart("a", BLUE, numbers, words),), "measured", numbers, words, words)
        )

    one, seven, forty = (plot_of(n) for n in (1, 7, 40))
    assert (
        one.layout.height
        == seven.layout.height
        < forty.layout.height
        < plot_of(40, "LoRA r=1 nf4, batch=8, length=512").layout.height
    )
    assert one.data[0].width < seven.data[0].width < forty.data[0].width < 1
    assert len(set(forty.data[0].y)) == 40  # one name forty times is still forty bars


# stores and names of other kinds


def test_a_store_without_parts_has_its_grid_and_one_bar_for_the_whole(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, change=without_parts))
    section = shown(view)
    info = predicted_memory.compute_bars(predicted_memory.compute(view))
    assert [(p.label, p.colour, p.hatched) for p in info.parts] == [(WHOLE, GREY, True)]
    assert info.ends == pytest.approx([p.predicted / 1e6 for p in predicted_memory.compute(view)])
    figure, _ = figure_of(section)
    assert "its parts were not stored" in figure.caption
    assert "(" not in figure.alternative[0].partition(";")[0]
    assert len(next(b for b in section.blocks if isinstance(b, Grid)).rows) == 7
    assert not any(isinstance(b, Text) and "grows most" in b.text for b in section.blocks)


def test_a_condition_of_which_one_cell_has_no_parts_is_not_told_apart(tmp_path: Path) -> None:
    def old(result: CellResult) -> CellResult:
        return without_parts(result) if result.cell.method.rank == 4 and result.cell.seed == 1 else result

    view = make_view(filled(tmp_path, change=old))
    pairs = {p.label: p for p in predicted_memory.compute(view)}
    assert {label for label, p in pairs.items() if not p.parts} == {"LoRA r=4", "LoRA r=4 nf4"}
    info = predicted_memory.compute_bars(tuple(pairs.values()))
    assert info.ends == pytest.approx([p.predicted / 1e6 for p in pairs.values()])
    assert info.parts[-1].label == WHOLE


def test_nothing_is_shown_where_nothing_was_predicted(tmp_path: Path) -> None:
    def bare(result: CellResult) -> CellResult:
        return result.model_copy(
            update={"readings": tuple(r for r in result.readings if not r.metric.startswith("predicted_"))}
        )

    assert predicted_memory.section(make_view(filled(tmp_path, ONLY_FULL, bare))) is None


def test_a_hostile_label_is_text_in_the_figure_and_on_the_page(tmp_path: Path) -> None:
    study = study_of(tmp_path, ONLY_FULL)
    cells = expand(study)
    store = fill(tmp_path / "store", study, (*cells, *renamed(cells, HOSTILE)))
    figure, plot = figure_of(shown(make_view(store)))
    assert any("onerror" in words for words in figure.alternative)
    text = json.dumps(plot)
    assert "onerror" in text
    assert not any(tag in text for tag in ("<img", "<b>", "</script"))
    page = write_report(store, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page


def test_the_parts_are_no_columns_of_the_results_table(view: View) -> None:
    assert not {c.key for c in table_of(view).columns} & set(PREDICTED_PARTS)
    assert set(PREDICTED_PARTS) <= set(view.analysis.data.columns)
