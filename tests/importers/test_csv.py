"""Anybody's table: columns become fields, units are told apart, and what is wrong is said with its place."""

from __future__ import annotations

import math

import pytest

import lorabench as lb
from lorabench.analysis.study import analyse
from lorabench.errors import DataError, LorabenchError
from lorabench.importers import csv
from lorabench.record.imported_run import Request, write_import
from lorabench.report.tables import study_table

MAP = {"Method": "method", "r": "rank", "GSM8K (%)": "accuracy", "n": "items", "lr": "learning_rate"}
HEADER = "Method,r,GSM8K (%),n,lr,GPU\n"


def read(path, text, columns=None, **options):
    path.write_text(text, encoding="utf-8")
    return csv.read(Request((path,), columns, **options))


def test_columns_are_mapped_and_the_error_is_binomial(tmp_path):
    rows = "LoRA,8,48.2,1319,1e-4,A100\nFull,,47.0,1319,1e-5,A100\nQLoRA,8,46.1,1319,2e-4,A100\n"
    readout = read(tmp_path / "t.csv", HEADER + rows, MAP)
    lora, full, qlora = readout.runs
    assert lora.settings == {"method.name": "lora", "method.rank": 8, "training.learning_rate": 1e-4}
    (accuracy,) = lora.readings
    assert (accuracy.value, accuracy.count) == (pytest.approx(0.482), 1319)
    assert accuracy.stderr == pytest.approx(math.sqrt(0.482 * 0.518 / 1319))
    assert (full.settings["method.name"], "method.rank" in full.settings) == ("full", False)
    assert (qlora.settings["method.name"], qlora.settings["quantization.name"]) == ("lora", "nf4")
    assert readout.metric == "accuracy"
    assert readout.notes == ("accuracy was read as percent.", "Columns of t.csv that are not used: GPU.")


@pytest.mark.parametrize(
    ("header", "shown", "unit", "value"),
    [
        ("accuracy", "0.482", "auto", 0.482),
        ("accuracy", "48.2", "auto", 0.482),
        ("accuracy", "48.2%", "auto", 0.482),
        ("accuracy", "0.5", "percent", 0.005),
        ("accuracy", "1", "auto", 1.0),
    ],
)
def test_percent_and_fraction(tmp_path, header, shown, unit, value):
    readout = read(tmp_path / "t.csv", f"method,{header}\nlora,{shown}\n", unit=unit)
    assert readout.runs[0].readings[0].value == pytest.approx(value)


def test_columns_called_as_fields_need_no_map_and_standard_errors_share_the_unit(tmp_path):
    rows = "lora,8,1,48.2,1.4,1000\nlora,8,2,47.1,1.4,1000\n"
    readout = read(tmp_path / "t.csv", f"method,rank,seed,accuracy,accuracy_stderr,trainable_parameters\n{rows}")
    assert [r.seed for r in readout.runs] == [1, 2]
    assert readout.runs[0].readings[0].stderr == pytest.approx(0.014)
    store = write_import(readout, tmp_path / "out", ["t.csv"])
    (summary,) = analyse(store).summaries
    assert (summary.seeds, summary.statistics["trainable_parameters"].mean) == ((1, 2), 1000)
    assert store.study().imported.notes == ("accuracy was read as percent.",)  # seeds are seeds, no re-runs


def test_a_base_without_a_seed_makes_no_re_runs_of_seeds(tmp_path):
    text = "method,rank,seed,accuracy\nbase,,,0.1\nlora,8,1,0.5\nlora,8,2,0.6\nfull,,1,0.5\nfull,,2,0.7\n"
    store = write_import(read(tmp_path / "t.csv", text), tmp_path / "out", ["t.csv"])
    assert [(c.method.name, c.seed) for c in store.plan()][1:] == [("lora", 1), ("lora", 2), ("full", 1), ("full", 2)]
    assert store.study().imported.notes == ()
    analysis = analyse(store)
    assert not analysis.summaries[0].seeds  # the untrained base has none
    (lora,) = (c for c in analysis.comparisons if analysis.summary(c.condition).method == "lora")
    assert (lora.pairs, lora.difference) == (2, pytest.approx(-0.05))


def test_a_metric_of_ones_own_has_the_direction_that_is_said(tmp_path):
    text = "method,rank,judge,toxicity\nlora,4,6.1,0.2\nlora,8,6.9,0.4\nfull,,6.5,0.3\n"
    readout = read(tmp_path / "t.csv", text, higher_is_better=("judge",), lower_is_better=("toxicity",))
    assert readout.metric == "judge/score"
    table = study_table(write_import(readout, tmp_path / "out", ["t.csv"]))
    best = {
        c.key: r.values[0].value
        for i, c in enumerate(table.columns)
        for r in table.rows
        if r.values[i] and r.values[i].best
    }
    assert best == {"judge/score": "LoRA r=8", "toxicity/error": "LoRA r=4"}


def test_an_untold_setting_of_some_rows_is_not_the_default(tmp_path):
    readout = read(tmp_path / "t.csv", "method,rank,learning_rate,accuracy\nlora,8,0.001,0.5\nlora,8,,0.4\n")
    store = write_import(readout, tmp_path / "out", ["t.csv"])
    assert [s.label.text for s in analyse(store).summaries] == ["LoRA r=8, lr=0.001", "LoRA r=8"]
    assert analyse(store).cells["learning_rate"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        (HEADER + "a,1,2,3,4,5\n", {"Methd": "method"}, "unknown column 'Methd'; did you mean 'Method'? allowed: Met"),
        (HEADER + "a,1,2,3,4,5\n", {"Method": "methd"}, "'Method': unknown field 'methd'; did you mean 'method'?"),
        ("way,r,GSM8K\nlora,1,2\n", {"GSM8K": "accuracy"}, "no column for the method (way, r, GSM8K)"),
        ("method,r\nlora,8\n", None, "no column for a metric (method, r)"),
        ("method,accuracy,acc\nlora,1,1\n", {"acc": "accuracy"}, "columns 'accuracy' and 'acc' are both accuracy"),
        ("method,accuracy,accuracy\nlora,1,1\n", None, "has two columns 'accuracy'"),
        ("method,accuracy\n", None, "has no rows below its header"),
        ("", None, "has no header"),
        ('method,accuracy\n"lora,0.5\n', None, "is no table of comma-separated values"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, text, columns, words):
    with pytest.raises(DataError) as refused:
        read(tmp_path / "t.csv", text, columns)
    assert words in str(refused.value)
    assert "t.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("lora,8,high", "line 3: accuracy is 'high', which is no number"),
        ("lora,8,150", "line 3: accuracy is 150, which is no share (percent was understood)"),
        ("lora,8.5,50", "line 3: rank is 8.5, which is no whole number"),
        ("lora,0,50", "line 3: method.rank is 0"),
        ("lora,8", "line 3 has 2 fields and the header 3"),
        ("lora,8,n/a", "line 3 has no value of accuracy"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_the_others_are_kept(tmp_path, row, words):
    readout = read(tmp_path / "t.csv", f"method,rank,accuracy\nlora,4,48\n{row}\n")
    assert len(readout.runs) == 1
    (sentence,) = readout.refused
    assert words in sentence
    assert "\n" not in sentence


def test_cells_csv_of_a_study_comes_back_as_it_was(tmp_path):
    readout = read(tmp_path / "t.csv", "method,rank,seed,accuracy\nlora,8,0,0.5\nlora,8,1,0.52\nfull,,0,0.55\n")
    first = analyse(write_import(readout, tmp_path / "a", ["t.csv"]))
    first.cells.to_csv(tmp_path / "cells.csv", index=False)
    again = csv.read(Request((tmp_path / "cells.csv",)))
    second = analyse(write_import(again, tmp_path / "b", ["cells.csv"]))
    assert [(s.label, s.statistics["accuracy"]) for s in second.summaries] == [
        (s.label, s.statistics["accuracy"]) for s in first.summaries
    ]


def test_columns_match_in_any_case(tmp_path):
    readout = read(tmp_path / "t.csv", "Method,Rank,Accuracy,ACCURACY_stderr\nLoRA,8,71%,1%\n")
    (run,) = readout.runs
    assert run.settings == {"method.name": "lora", "method.rank": 8}
    assert [(r.metric, r.value, r.stderr) for r in run.readings] == [("accuracy", 0.71, 0.01)]
    with pytest.raises(DataError, match="columns 'Rank' and 'rank' are both rank; map one of them"):
        read(tmp_path / "t.csv", "method,Rank,rank,accuracy\nlora,8,8,0.5\n")


def test_values_below_one_among_percents_are_named(tmp_path):
    mixed = "method,rank,accuracy\nlora,8,71\nlora,16,72\nfull,,0.74\n"
    assert read(tmp_path / "t.csv", mixed).notes == (
        "accuracy was read as percent, 0.74 too: if that is a fraction, mend the table.",
    )
    assert read(tmp_path / "t.csv", mixed, unit="percent").notes == ("accuracy was read as percent.",)
    assert read(tmp_path / "t.csv", mixed.replace("0.74", "0.74%")).notes == ("accuracy was read as percent.",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no header; a table needs both"),
        ("method,accuracy\n", "has no rows below its header; a table needs both"),
        ("method;accuracy\nlora;0,5\n", "is separated by semicolons; save it with commas or tabs"),
        ("method,accuracy\nlora\n", "line 2 has 1 field and the header 2; complete the line"),
    ],
)
def test_what_is_no_table_is_told_apart(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path / "t.csv", text)


def test_a_folder_of_tables_is_read_whole(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"variant,accuracy\n{name},0.5\n", encoding="utf-8")
    assert [r.settings["method.name"] for r in csv.read(Request((tmp_path,))).runs] == ["a", "b"]


def test_a_metric_is_better_one_way_and_the_count_of_faults_is_english(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("method,rank,accuracy\nlora,8,71\nlora,16,72\nfull,,74\n", encoding="utf-8")
    with pytest.raises(LorabenchError, match="f1 is given as better both when higher and when lower; give one of them"):
        lb.import_results("csv", table, tmp_path / "out", higher_is_better=["f1"], lower_is_better=["f1"])
    with pytest.raises(DataError, match=r"\(2 more like it\)"):
        lb.import_results("csv", table, tmp_path / "out", unit="fraction")
