"""`lorabench evidence` and `lb.evidence` list, filter, and say what was left out."""

from __future__ import annotations

import csv
import io
import json

import pytest

import lorabench as lb
from lorabench.commands import main as cli
from lorabench.evidence import library
from lorabench.evidence.schema import RESULTS, UNUSABLE


def shown(capsys, *arguments):
    assert cli.main(["evidence", *arguments]) == 0
    return capsys.readouterr().out


def test_a_question_gets_rows_and_what_was_left_out(capsys):
    text = shown(capsys, "--model-size", "8B", "--task", "math", "--method", "lora")
    head, *_ = text.splitlines()
    assert head.split()[:6] == ["source", "model", "task", "length", "method", "rank"]
    assert "biderman-2024" in text and "−1.7" in text
    assert "rows of" in text and "converted" in text and "--all" in text
    assert "untuned rate: " in text, "a flag that occurs is explained"
    assert "misprint: " not in text, "one that does not is not"


def test_all_lists_the_rows_that_are_left_out_otherwise(capsys):
    few = json.loads(shown(capsys, "--json"))
    many = json.loads(shown(capsys, "--all", "--json"))
    assert len(many["rows"]) == 2231 and many["left_out"] == {}
    assert len(few["rows"]) + sum(few["left_out"].values()) == 2231
    assert not any(row.get(flag) for row in few["rows"] for flag in UNUSABLE)
    assert {row["aspect"] for row in few["rows"]} == {"task"}


def test_csv_has_every_column_and_json_no_absent_one(capsys):
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "--csv", "--source", "dettmers-2023"))))
    assert [c.name for c in RESULTS] == list(rows[0])[: len(RESULTS)] and len(rows) == 90
    for row in json.loads(shown(capsys, "--json", "--source", "dettmers-2023"))["rows"]:
        assert "seeds" not in row and "" not in row.values(), "QLoRA's tables print no seeds"


def test_sources_are_listed_with_their_cautions(capsys):
    text = shown(capsys, "sources")
    assert "34 sources" in text
    for source in library.sources():
        assert source.id in text and source.title in text and all(c in text for c in source.cautions)
    one = json.loads(shown(capsys, "sources", "--source", "biderman-2024", "--json"))
    assert [s["arxiv"] for s in one] == ["2405.09673v2"]


def test_learning_rates_are_listed(capsys):
    text = shown(capsys, "--learning-rates", "--model-size", "7B", "--task", "code")
    assert "Magicoder" in text and "0.0005" in text and "10" in text
    assert len(lb.evidence(learning_rates=True).frame()) == 172


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--source", "nobody-1999"], "biderman-2024"),
        (["--task", "poetry"], "classification"),
        (["--json", "--csv"], "one of them"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(capsys, arguments, word):
    assert cli.main(["evidence", *arguments]) == 2
    sentence = capsys.readouterr().err
    assert word in sentence and sentence.count("\n") == 1


def test_nothing_that_matches_is_said(capsys):
    assert "no published result" in shown(capsys, "--method", "dora", "--rank", "3")


def test_the_package_answers_for_the_function_of_its_name():
    from lorabench.api import evidence

    assert lb.evidence is not evidence, "the package, since its modules were imported"
    asked = {"model_size": 8e9, "task": "chat", "rank": 16}
    assert lb.evidence(**asked).frame().equals(evidence(**asked).frame())
    assert lb.evidence.__doc__ == evidence.__doc__
    assert "rows from" in repr(lb.evidence(**asked))


def test_full_fine_tuning_stands_first_in_its_table():
    frame = lb.evidence(source="biderman-2024", task="code").frame()
    for _, rows in frame.groupby("table", observed=True):
        assert rows.method.tolist() == ["full", "lora", "lora", "lora"]
        assert rows["rank"].tolist()[1:] == [16, 64, 256]


def test_a_source_or_method_of_one_kind_alone_is_known_to_both(capsys):
    assert "1 source" in shown(capsys, "sources", "--source", "open-instruct")
    assert "peft-comparison" in shown(capsys, "sources", "--method", "randlora")
    text = shown(capsys, "--source", "open-instruct")
    assert text == "no published result matches all of it; 1 row with --learning-rates\n"
    assert cli.main(["evidence", "--source", "nope"]) == 2
    refusal = capsys.readouterr().err
    assert "unknown source 'nope'" in refusal and "open-instruct" in refusal


def test_full_fine_tuning_has_the_digits_of_the_value_beside_it(capsys):
    rows = shown(capsys, "--source", "biderman-2024", "--task", "chat").splitlines()
    (row,) = [r for r in rows if "5.681" in r]
    assert row.split()[-3:] == ["5.681", "5.825", "−0.144"]
