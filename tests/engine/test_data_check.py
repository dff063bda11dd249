"""Claims about what is told of a task's rows before a cell runs, and which of it ends a study."""

import json

import pytest

from lorabench.commands import main as cli
from lorabench.engine.check import check_cells
from lorabench.engine.data_check import data_fault, data_lines
from lorabench.record.data import DataFacts, SplitFacts
from tests.engine.conftest import cell_of, cells_of

LONG = "word " * 200


def counts(train=None, validation=None, test=None, **others):
    def split(n, given):
        return SplitFacts(**{"read": n, **(given or {})})

    return DataFacts(train=split(900, train), validation=split(100, validation), test=split(300, test), **others)


def rows(folder, name, n, long=0, **more):
    path = folder / name
    path.write_text(
        "".join(
            json.dumps({"question": f"{name} {i}? {LONG if i < long else ''}", "answer": f"It is {i}.", **more}) + "\n"
            for i in range(n)
        ),
        encoding="utf-8",
    )
    return str(path)


def test_where_little_is_left_the_sentence_names_the_length_that_keeps_95_percent():
    cell = cell_of("training.sequence_length=128")
    assert data_fault(counts(), cell) is None
    field, words = data_fault(counts(test={"read": 60, "dropped": 57, "whole_at": 412}), cell)
    assert (field, words) == (
        "training.sequence_length",
        "3 of 60 test rows are left at training.sequence_length 128, the rest leave no room for a "
        "response; at least 30 are needed: 412 keeps 95 % of the rows whole",
    )
    assert (
        "20 of 60 training rows are left"
        in data_fault(counts(train={"read": 60, "dropped": 40, "whole_at": 300}), cell)[1]
    )
    assert data_fault(counts(test={"read": 60, "dropped": 30, "whole_at": 412}), cell) is None, (
        "half is a finding of the report"
    )
    assert data_fault(counts(test={"read": 3}), cell) is None, "so is a small test that was given"
    assert data_fault(counts(test={"read": 3000, "dropped": 2000}), cell) is None, (
        "and what is lost where a thousand are left"
    )


def test_one_label_alone_ends_a_study_in_training_and_in_the_test():
    cell = cell_of()
    assert (
        "all 900 training rows have the label 1"
        in data_fault(counts(train={"labels": {"1": 900}}, test={"labels": {"0": 9, "1": 291}}), cell)[1]
    )
    assert (
        "all 300 test rows have the label 0"
        in data_fault(counts(train={"labels": {"0": 1, "1": 899}}, test={"labels": {"0": 300}}), cell)[1]
    )


def test_a_test_that_was_trained_on_whole_ends_a_study():
    assert data_fault(counts(test={"in_training": 299}), cell_of()) is None, "a part is a finding of the report"
    assert (
        "300 of 300 test rows are training rows, so nothing is held out"
        in data_fault(counts(test={"in_training": 290, "in_validation": 10}), cell_of())[1]
    )
    assert "the data repeat themselves" in data_fault(counts(test={"in_training": 300}), cell_of())[1], (
        "no test file was given"
    )
    assert (
        "280 of 300 test blocks are in the training text"
        in data_fault(counts(test={"in_training": 280}, unit="blocks"), cell_of())[1]
    )


def test_validation_rows_are_needed_only_to_choose_a_rate_by():
    lost = counts(validation={"dropped": 100, "whole_at": 77})
    assert data_fault(lost, cell_of()) is None
    tuned = cells_of("training.learning_rate={tune: [1e-3, 1e-2]}")[0]
    assert "none of the 100 validation rows is left" in data_fault(lost, tuned)[1]


def test_every_count_stands_in_the_line_and_zeros_do_not():
    cell = cell_of("training.sequence_length=128", "evaluation={max_sequences: 64}")
    test = {
        "dropped": 5,
        "cut": 6,
        "repeated": 7,
        "in_training": 8,
        "prompt_in_training": 12,
        "in_validation": 9,
        "empty_prompts": 3,
        "labels": {"0": 59, "1": 236},
        "whole_at": 200,
    }
    first, second = data_lines(counts(test=test, notes=("x.csv has an index",)), cell)
    assert first == (
        "data of python-docs at 128 tokens: train: 900 rows read; validation: 100 rows read; test: 300 "
        "rows read, 5 dropped because no response fits in 128 tokens, "
        "6 cut at 128 tokens (200 keeps 95 % whole), 8 also in training, 4 with the prompt of a training row but "
        "another response, 9 also in validation, 7 repeated, "
        "3 with an empty prompt, 80 % with the label 1; the first 64 of the 295 test rows are measured "
        "(evaluation.max_sequences)"
    )
    assert second == "data of python-docs: x.csv has an index"


def test_the_check_tells_of_the_rows_of_each_length_once(tmp_path):
    task = (
        f"task={{name: instruct, train: {rows(tmp_path, 'a.jsonl', 300, long=60)}, eval: "
        f"{rows(tmp_path, 'b.jsonl', 60, long=20)}}}"
    )
    told = check_cells(cells_of(task, "grid={training.sequence_length: [48, 450], method.rank: [2, 4]}"))
    assert not any(n.fatal for n in told)
    assert [n.message.partition(":")[0] for n in told] == [
        "data of instruct at 48 tokens",
        "data of instruct at 450 tokens",
    ]
    assert "test: 60 rows read, 20 dropped because no response fits in 48 tokens" in told[0].message
    assert "dropped" not in told[1].message


@pytest.mark.parametrize(("long", "code"), [(57, 2), pytest.param(20, 0, marks=pytest.mark.slow)])
def test_a_dry_run_shows_the_rows_and_ends_where_too_few_are_left(tmp_path, capsys, long, code):
    rows(tmp_path, "a.jsonl", 300)
    rows(tmp_path, "b.jsonl", 60, long=long)
    (tmp_path / "s.yaml").write_text(
        "schema: 1\nname: s\nmodel: lorabench/tiny-300k\ntask: {name: instruct, train: a.jsonl, eval: b.jsonl}\n"
        "training: {steps: 2, batch_size: 2, sequence_length: 48}\nevaluation: {lm_eval: [], forgetting: none}\n"
    )
    assert cli.main(["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]) == code
    out, err = capsys.readouterr()
    if code:
        assert (
            "s.yaml:5: 3 of 60 test rows are left at training.sequence_length 48" in err and len(err.splitlines()) == 1
        )
    else:
        (line,) = [line for line in out.splitlines() if line.startswith("note: data of instruct")]
        assert "test: 60 rows read, 20 dropped because no response fits in 48 tokens" in line


def test_counts_are_stored_with_the_result(tmp_path, folder):
    from lorabench.engine.cell import run_cell
    from lorabench.record.result import CellResult

    cell = cell_of(
        f"task={{name: instruct, train: {rows(tmp_path, 'a.jsonl', 60, long=10)}, eval: "
        f"{rows(tmp_path, 'b.jsonl', 40, long=4)}}}",
        "training.steps=1",
    )
    result = run_cell(cell, folder)
    assert result.outcome == "finished"
    assert (result.resolved.data.test.read, result.resolved.data.test.dropped, result.resolved.test_examples) == (
        40,
        4,
        36,
    )
    assert CellResult.model_validate_json(result.model_dump_json(by_alias=True)) == result
    old = result.model_dump(mode="json", by_alias=True)
    del old["resolved"]["data"]
    assert CellResult.model_validate(old).resolved.data is None
