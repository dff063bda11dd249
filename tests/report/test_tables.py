"""The results table: every condition, typed values, and plain text that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len
from scipy import stats

from lorabench.config import expand
from lorabench.errors import StudyError
from lorabench.record.result import CellResult, Reading
from lorabench.report.table_model import Table, Value, shown
from lorabench.report.tables import as_text, study_table, table_of
from lorabench.report.view import make_view
from tests.report.stores import STUDY, fill, filled, renamed, study_of
from tests.synthetic import expected


def value(table: Table, row: int, key: str) -> Value | None:
    return table.rows[row].values[[c.key for c in table.columns].index(key)]


def test_every_condition_has_a_row_with_its_cells(tmp_path: Path) -> None:
    store = filled(tmp_path)
    table = study_table(store)
    assert [i for r in table.rows for i in r.cells] == [c.id for c in store.plan()]
    keys = [c.key for c in table.columns]
    for wanted in (
        "trainable_parameters",
        "trainable_percent",
        "adapter_bytes",
        "weight_bytes",
        "train_peak_bytes",
        "tokens_per_second",
        "eval_loss",
        "eval_loss_difference",
        "python-docs-cloze/acc",
        "python-docs-cloze/acc_difference",
        "forgetting",
        "seeds",
    ):
        assert wanted in keys


def test_the_difference_is_the_paired_one(tmp_path: Path) -> None:
    store = filled(tmp_path)
    by = {(c.method.name, c.method.rank, c.quantization.name, c.seed): expected(c)["eval_loss"] for c in store.plan()}
    ours = [by["lora", 4, "nf4", s] for s in (0, 1)]
    full = [by["full", None, "none", s] for s in (0, 1)]
    interval = stats.ttest_rel(ours, full).confidence_interval(0.95)
    found = value(study_table(store), 3, "eval_loss_difference")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_reference_and_base_have_no_difference_and_a_note_says_why(tmp_path: Path) -> None:
    table = study_table(filled(tmp_path))
    assert value(table, 6, "eval_loss_difference") is None
    assert value(table, 7, "eval_loss_difference") is None
    assert any("base" in n and "seed" in n for n in table.notes)


def test_what_did_not_finish_is_said_in_words(tmp_path: Path) -> None:
    text = STUDY.replace("rank: [1, 4, 16]", "rank: [1]\n  training.learning_rate: [3e-3, 2.0]")
    table = study_table(filled(tmp_path, text, lambda r: None if r.cell.method.name == "full" and r.cell.seed else r))
    words = [v.value for i in range(len(table.rows)) if (v := value(table, i, "outcome"))]
    assert words.count("diverged at step 12 (2 of 2)") == 2
    assert "not run yet (1 of 2)" in words
    assert "finished" in words
    text = as_text(table, 120)
    assert "diverged at step 12 (2 of 2)" in text


def test_best_is_never_the_base_nor_a_condition_with_broken_cells(tmp_path: Path) -> None:
    store = filled(
        tmp_path,
        change=lambda r: (
            r.model_copy(update={"outcome": "failed"}) if r.cell.method.name == "full" and r.cell.seed else r
        ),
    )
    table = study_table(store)
    best = [i for i in range(len(table.rows)) if (v := value(table, i, "eval_loss")) and v.best]
    assert best == [4]  # LoRA r=16; full is lower, but half of it failed
    assert not any(v.best for v in table.rows[7].values if v)


def test_an_empty_store_gives_a_table_all_the_same(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    table = study_table(fill(tmp_path / "s", study, expand(study), lambda r: None))
    assert [c.key for c in table.columns] == ["condition", "outcome", "seeds"]
    assert len(table.rows) == 8
    assert "not run yet" in as_text(table, 80)


@pytest.mark.parametrize("width", [200, 120, 80, 60])
def test_text_fits_its_terminal(tmp_path: Path, width: int) -> None:
    table = study_table(filled(tmp_path))
    text, keys = as_text(table, width), [c.key for c in table.columns]
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for row in table.rows:
        assert any(line.startswith(str(row.values[0].value)) for line in text.splitlines())  # type: ignore[union-attr]
    assert "\x1b" not in text
    assert "…" not in text
    if width >= 120:
        assert "2.416" in text
        assert "[0.360, 0.485]" in text
        assert any(
            f"{100 * a.value:.1f}" in text
            for row in table.rows
            if (a := row.values[keys.index("python-docs-cloze/acc")])
        )


def test_hostile_names_are_text_in_a_terminal(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    cells = expand(study)
    text = as_text(
        study_table(fill(tmp_path / "s", study, (*cells, *renamed(cells, "\x1b[31mred [bold]x[/bold] :smile:")))), 200
    )
    assert "\x1b" not in text
    assert "[bold]x[/bold] :smile:" in text.replace("\n", "")


def test_an_absent_value_is_a_dash(tmp_path: Path) -> None:
    table = study_table(filled(tmp_path))
    assert shown(value(table, 7, "train_peak_bytes"), table.columns[0]) == "–"


PUBLISHED = """
published:
  - label: "paper's loss"
    source: "Somebody 2020, Table 1"
    rows:
      - {at: {method.rank: 1, quantization: none}, value: "2.50"}
      - {at: {method.rank: 4, quantization: none}, value: "2.30"}
      - {at: {method.rank: 16, quantization: none}, value: "2.40"}
      - {at: {method: full}, value: 1.9}
"""


def test_published_values_stand_beside_their_conditions_as_printed(tmp_path: Path) -> None:
    table = study_table(filled(tmp_path, STUDY + PUBLISHED))
    column = [c.key for c in table.columns].index("published_1")
    shown_there = {str(r.values[0].value): r.values[column] and r.values[column].value for r in table.rows}  # type: ignore[union-attr]
    assert shown_there == {
        "LoRA r=1": "2.50",
        "LoRA r=1 nf4": None,
        "LoRA r=4": "2.30",
        "LoRA r=4 nf4": None,
        "LoRA r=16": "2.40",
        "LoRA r=16 nf4": None,
        "full": "1.9",
        "base": None,
    }
    note = next(n for n in table.notes if "Somebody" in n)
    assert (
        "Spearman's rho +0.80 (p = 0.33) over 4 conditions" in note
    )  # ranks 4, 2, 3, 1 against 4, 3, 2, 1: so many of 24 orders are as extreme


def test_a_published_row_with_an_unknown_field_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"study-in.yaml:\d+: unknown key of published 'method.rnk'"):
        study_of(tmp_path, STUDY + PUBLISHED.replace("method.rank: 16", "method.rnk: 16"))


def test_one_cell_has_its_items_interval_and_untrained_ones_are_paired_by_item(tmp_path: Path) -> None:
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0]").replace(
        "reference: {method: {name: full}}", "reference: {method: {name: base}, quantization: none}"
    )
    text = text.replace(
        "{method: {name: base}, quantization: none}\nseeds",
        "{method: {name: base}, grid: {quantization: [none, nf4]}}\nseeds",
    )
    view = make_view(filled(tmp_path, text))
    row = next(s for s in view.analysis.summaries if s.label.text == "base nf4")
    c = view.analysis.comparison("eval_loss", row.condition)
    assert c is not None
    assert (c.basis, c.repeated, c.verdict) == ("items", True, "worse")
    assert c.difference == pytest.approx(0.05)
    table = table_of(view)
    assert any("of a single cell over its items" in n for n in table.notes)
    assert any("over items where there is one cell on each side" in n for n in table.notes)


def test_a_measured_metric_of_the_study_heads_its_table(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, STUDY + "comparison: {metric: python-docs-cloze/acc, accuracy_margin: 0.05}\n"))
    assert view.analysis.metric == "python-docs-cloze/acc"
    assert {c.margin for c in view.analysis.comparisons if c.metric == view.analysis.metric} == {0.05}
    absent = make_view(filled(tmp_path / "b", STUDY + "comparison: {metric: nothing/acc}\n"))
    assert absent.analysis.metric == "eval_loss"
    assert any(f.kind == "metric_absent" for f in absent.findings)


def test_an_interval_of_a_share_ends_where_shares_do_and_the_same_value_thrice_has_none(tmp_path: Path) -> None:
    """None of 20 right, by one seed: 0 ± 16.1 points, from 0 to 16.1 in CSV; seven of 20 at each of two seeds: no
    interval, and a note says why."""

    def change(r: CellResult) -> CellResult | None:
        acc = {4: 0.0, 1: 0.35}.get(r.cell.method.rank or 0, 0.5 + 0.1 * r.cell.seed)
        if r.cell.method.rank == 4 and r.cell.seed:
            return None
        kept = tuple(x for x in r.readings if not x.metric.startswith("python-docs-cloze"))
        return r.model_copy(
            update={
                "readings": (
                    *kept,
                    Reading(metric="python-docs-cloze/acc", value=acc, stderr=(acc * (1 - acc) / 19) ** 0.5, count=20),
                )
            }
        )

    table = study_table(filled(tmp_path, change=change))
    alike, none_right, several = (value(table, row, "python-docs-cloze/acc") for row in (0, 2, 6))
    wilson = stats.binomtest(0, 20).proportion_ci(0.95, "wilson").high
    assert none_right and several and alike
    assert (none_right.low, none_right.high, none_right.ci_half_width) == (
        0.0,
        pytest.approx(wilson),
        pytest.approx(wilson),
    )
    column = next(c for c in table.columns if c.key == "python-docs-cloze/acc")
    assert shown(none_right, column) == "0.0 ± 16.1"
    assert several.ci_half_width == pytest.approx(stats.t.ppf(0.975, 1) * 0.1 / 2), "two seeds a tenth apart"
    assert (several.low, several.high) == (0.0, 1.0)
    assert (alike.ci_half_width, shown(alike, column)) == (None, "35.0")
    assert table.notes[0].endswith(
        "None is given where all seeds have the same value: how far others would lie is then unknown."
    )
