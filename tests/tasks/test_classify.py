"""Claims about classification: labels as texts, an item a test row, and SST-2 as it is."""

import json

import pytest
from pydantic import ValidationError

from lorabench.errors import DataError
from lorabench.tasks import classify
from tests.tasks.rows import copy_of, read_file, write


def test_classify_brings_an_item_for_each_test_row(tmp_path, tokenizer):
    train = write(tmp_path / "t.tsv", "sentence\tlabel\n" + "".join(f"film number {i}\t{i % 2}\n" for i in range(20)))
    test = write(tmp_path / "e.tsv", "sentence\tlabel\nawful\t0\nlovely \t1\n")
    data = classify.load(classify.Options(train=train, eval=test), tokenizer, 64)
    (choices,) = data.choice_sets
    assert choices.name == "classify"
    assert {(i.context, i.choices, i.answer) for i in choices.items} == {
        ("Review: awful\nSentiment:", (" negative", " positive"), 0),
        ("Review: lovely\nSentiment:", (" negative", " positive"), 1),
    }
    for item, example in zip(choices.items, data.test, strict=True):
        text = tokenizer.decode(example.ids, skip_special_tokens=True).lstrip()
        assert text == item.context + item.choices[item.answer]
        assert example.n_bytes == len(item.choices[item.answer])


def test_a_row_that_is_dropped_is_in_no_metric(tmp_path, words):
    """lm-eval's set is of the rows that loss and accuracy are over."""
    train = write(tmp_path / "t.jsonl", "".join(f'{{"s": "a{i}", "label": "{i % 2}"}}\n' for i in range(9)))
    test = write(
        tmp_path / "e.jsonl",
        '{"s": "a", "label": "0"}\n{"s": "a b c d e f g h i", "label": "1"}\n{"s": "b", "label": "1"}\n',
    )
    data = classify.load(
        classify.Options(train=train, eval=test, prompt="{s}", choices={"0": " c", "1": " d"}), words, 6
    )
    assert data.facts.test.dropped == 1
    assert {item.context for item in data.choice_sets[0].items} == {"a", "b"}
    assert len(data.test) == len(data.choice_sets[0].items) == 2


def test_labels_are_compared_as_text(tmp_path, words):
    file = write(tmp_path / "t.jsonl", '{"s": "a", "label": true}\n{"s": "b", "label": false}\n' * 5)
    options = classify.Options.model_validate(
        {"train": file, "eval": copy_of(file), "prompt": "{s}", "choices": {True: " c", False: " d"}}
    )
    assert options.choices == {"true": " c", "false": " d"}
    assert {i.answer for i in classify.load(options, words, 8).choice_sets[0].items} == {0, 1}


def test_labels_that_mean_one_text_are_one_choice(tmp_path, words):
    file = write(
        tmp_path / "t.jsonl",
        "".join(f'{{"s": "a{i}", "label": "{label}"}}\n' for i in range(9) for label in ("0", "1", "no")),
    )
    options = classify.Options(train=file, prompt="{s}", choices={"0": " c", "1": " d", "no": " c"})
    items = classify.load(options, words, 8).choice_sets[0].items
    assert {item.choices for item in items} == {(" c", " d")} and {item.answer for item in items} == {0, 1}
    with pytest.raises(ValidationError, match="all labels have the text ' c', so no two can be distinguished"):
        classify.Options(train=file, choices={"0": " c", "1": " c"})


def test_an_unknown_label_names_file_line_and_the_allowed(tmp_path, words):
    file = write(tmp_path / "t.tsv", "sentence\tlabel\na\t1\nb\tneutral\n")
    with pytest.raises(DataError, match=r"(t|copy)\.tsv:3: unknown label 'neutral'; allowed: 0, 1"):
        classify.load(classify.Options(train=file, eval=copy_of(file)), words, 16)
    with pytest.raises(DataError, match="unknown column 'gold'"):
        classify.load(classify.Options(train=file, eval=copy_of(file), label="gold"), words, 16)


def test_sst2_as_it_is(shared_data, tiny):
    options = classify.Options(
        train=shared_data("sst2/train.tsv"), eval=shared_data("sst2/dev.tsv"), max_train=300, max_eval=600
    )
    assert len(read_file(options, options.eval)) == 6735  # of the data's README
    items = classify.load(options, tiny, 128).choice_sets[0].items
    assert len(items) == 600
    assert 0.4 < sum(i.answer for i in items[:200]) / 200 < 0.7  # a limit of 200 is a fair sample


def test_rows_of_other_names_need_no_more_than_the_file(tmp_path, tokenizer):
    """As Hugging Face's text classification sets are written: text, and labels that are words."""
    file = write(
        tmp_path / "t.jsonl",
        "".join(json.dumps({"text": f"film {i}", "label": ("good", "bad", "mixed")[i % 3]}) + "\n" for i in range(40)),
    )
    data = classify.load(classify.Options(train=file), tokenizer, 64)
    assert data.facts.notes == (
        "the column text is read as the text, since there is no column sentence",
        "labels are read as their own words: good, bad, mixed",
    )
    for row in data.test:
        assert [tokenizer.decode(c.ids[c.predicted]).strip() for c in row.choices] == ["good", "bad", "mixed"]
        assert "Review: film" in tokenizer.decode(row.ids)
    mixed = write(tmp_path / "m.jsonl", '{"text": "a", "label": "good"}\n{"text": "b", "label": 3}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:2: unknown label '3'; allowed: good"):
        classify.load(classify.Options(train=mixed), tokenizer, 64)


def test_a_label_that_begins_another_is_refused(tmp_path, words):
    """Its likelihood is a factor of the other's, so that it would win always."""
    file = write(tmp_path / "t.jsonl", "".join(f'{{"s": "a b{i}", "label": "{i % 2}"}}\n' for i in range(9)))
    with pytest.raises(
        DataError, match="the text ' c' is a prefix of the text ' c d', so it is always the likelier answer"
    ):
        classify.load(classify.Options(train=file, prompt="{s}", choices={"0": " c", "1": " c d"}), words, 16)
