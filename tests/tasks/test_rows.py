"""Claims about reading rows, templates, and drawing held-out rows: instruct and classify."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lorabench.config import hub
from lorabench.errors import DataError
from lorabench.tasks import classify, instruct
from lorabench.tasks._rows import Row, hold_out, read_file
from lorabench.tasks._template import fill, parse


def copy_of(file):
    """The same rows under another name: one file for both sides is refused."""
    copy = Path(file).with_stem("copy")
    copy.write_bytes(Path(file).read_bytes())
    return str(copy)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(file, **options):
    return read_file(instruct.Options(train=file, **options), file)


@given(st.text(max_size=20), st.text(max_size=20))
def test_braces_doubled_come_out_single_and_values_are_taken_as_they_are(before, value):
    doubled = before.replace("{", "{{").replace("}", "}}")
    assert fill(doubled + "{a b}!", {"a b": value}, "here") == before + value + "!"


@pytest.mark.parametrize(
    "template", ["{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "{a", "a}", "{a:{b}}", "{0.__class__}"]
)
def test_a_template_takes_plain_names_only(template):
    with pytest.raises(ValueError, match=r"write \{\{ and \}\} for braces"):
        parse(template)
    with pytest.raises(ValidationError):
        instruct.Options(train="x.jsonl", prompt=template)


def test_a_missing_column_names_the_nearest(tmp_path, words):
    file = write(tmp_path / "t.jsonl", '{"question": "a", "answer": "b"}\n' * 4)
    with pytest.raises(
        DataError, match=r"t.jsonl:1: unknown column 'qestion'; did you mean 'question'\? allowed: question, answer"
    ):
        instruct.load(instruct.Options(train=file, prompt="{qestion}"), words, 8)


def test_jsonl_values_become_text(tmp_path):
    file = write(tmp_path / "t.jsonl", '{"a": 1, "b": true, "c": null, "d": ["é"]}\n\n{"a": " x "}\n')
    assert [(r.where.rpartition(":")[2], r.fields) for r in rows(file)] == [
        ("1", {"a": "1", "b": "true", "c": "", "d": '["é"]'}),
        ("3", {"a": " x "}),
    ]


def test_csv_with_quotes_and_line_breaks_within(tmp_path):
    file = write(tmp_path / "t.csv", '\ufeffq, a\r\n"x, ""y""\nz",1\r\n\r\nw,2\r\n')
    assert [(r.where.rpartition(":")[2], r.fields) for r in rows(file)] == [
        ("3", {"q": 'x, "y"\nz', "a": "1"}),
        ("5", {"q": "w", "a": "2"}),
    ]


def test_tsv_quotes_are_plain_characters(tmp_path):
    file = write(tmp_path / "t.tsv", 'sentence\tlabel\n"open quote \t1\n')
    assert rows(file)[0].fields == {"sentence": '"open quote', "label": "1"}


def test_a_headerless_file_with_its_own_separator(tmp_path):
    file = write(tmp_path / "t.txt", "name : X||It is X .\nname : Y||It is Y .\n")
    read = rows(file, separator="||", columns=("mr", "ref"))
    assert [r.fields for r in read] == [{"mr": "name : X", "ref": "It is X ."}, {"mr": "name : Y", "ref": "It is Y ."}]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("t.jsonl", '{"a": 1}\n{"a": \n', r"t\.jsonl:2: not JSON"),
        ("t.jsonl", "[1]\n", r"t\.jsonl:1: a list, not an object"),
        ("t.jsonl", '{"a": "\\ud800"}\n', r"t\.jsonl:1: half of a surrogate pair"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", r"t\.csv:3: 3 fields where the columns are a, b"),
        ("t.csv", 'a,b\n"1"x,2\n', r"t\.csv:2: "),
        ("t.tsv", "a\ta\n1\t2\n", r"t\.tsv:1: the header has empty or repeated names"),
    ],
)
def test_malformed_rows_are_told_with_file_and_line(tmp_path, name, body, message):
    with pytest.raises(DataError, match=message):
        rows(write(tmp_path / name, body))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train": "a.jsonl", "dataset": "b/c"},
        {"dataset": "b/c", "eval": "a.jsonl"},
        {"train": "a.txt", "separator": "|", "format": "csv"},
        {"train": "a.jsonl", "columns": ["x"]},
    ],
)
def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValidationError):
        instruct.Options.model_validate(options)


def test_a_stored_cell_loads_where_its_file_is_no_more(tmp_path):
    assert instruct.Options(train=str(tmp_path / "gone")).train == str(tmp_path / "gone")
    (tmp_path / "here").write_text("x")
    with pytest.raises(ValidationError, match="does not say its format"):
        instruct.Options(train=str(tmp_path / "here"))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(1, 10))
def test_held_out_rows_share_no_prompt_with_the_rest_and_do_not_hang_on_the_order(prompts, wanted):
    def key(row):
        return row.fields["p"]

    def draw(order):
        return hold_out([Row(str(i), {"p": p}) for i, p in enumerate(order)], wanted, key)

    rest, held = draw(prompts)
    assert len(rest) + len(held) == len(prompts)
    assert len(held) >= min(wanted, len(prompts))
    assert not {key(r) for r in rest} & {key(r) for r in held}
    assert sorted(key(r) for r in held) == sorted(key(r) for r in draw(prompts[::-1])[1])


def test_instruct_predicts_the_response_alone(tmp_path, tokenizer):
    body = "".join(json.dumps({"question": f"What is {i}?", "answer": f"It is “{i}”."}) + "\n" for i in range(40))
    file = write(tmp_path / "t.jsonl", body)
    data = instruct.load(instruct.Options(train=file, eval=copy_of(file)), tokenizer, 64)
    assert (len(data.train), len(data.validation), len(data.test), data.packing) == (38, 2, 40, "padded")
    for example in data.train + data.validation + data.test:
        text = tokenizer.decode(example.ids, skip_special_tokens=True).lstrip()
        number = text.removeprefix("Q: What is ").partition("?")[0]
        assert text == f"Q: What is {number}?\nA: It is “{number}”."
        response = tokenizer.decode(example.ids[example.predicted], skip_special_tokens=True).strip()
        assert response == f"It is “{number}”."
        assert example.n_bytes == len(f" It is “{number}”.".encode())


def test_limits_spread_over_the_file_and_hold_out_without_an_eval_file(tmp_path, words):
    file = write(tmp_path / "t.jsonl", "".join(json.dumps({"q": f"{'a ' * i}b", "a": "c"}) + "\n" for i in range(100)))
    data = instruct.load(instruct.Options(train=file, prompt="{q}", response=" {a}", max_train=50), words, 256)
    assert (len(data.train), len(data.validation), len(data.test)) == (43, 2, 5)
    assert max(len(e.ids) for e in data.train) > 90


def test_prompts_that_leave_no_room_are_dropped_and_all_of_them_is_an_error(tmp_path, words):
    body = "".join(json.dumps({"q": f"{'a ' * i}b", "a": "c"}) + "\n" for i in range(20))
    file = write(tmp_path / "t.jsonl", body)
    options = instruct.Options(train=file, eval=copy_of(file), prompt="{q}", response=" {a}", validation_percent=45)
    assert len(instruct.load(options, words, 12).test) == 10  # begin + i words + b must be 11 at most
    with pytest.raises(DataError, match="sequence_length 2 without room for a response"):
        instruct.load(options, words, 2)


def test_an_empty_response_is_told_with_its_line(tmp_path, words):
    file = write(tmp_path / "t.csv", "question,answer\na,b\nc,\n")
    with pytest.raises(DataError, match=r"t\.csv:3: the response '\{answer\}' is empty"):
        instruct.load(instruct.Options(train=file, eval=copy_of(file)), words, 8)


def test_an_absent_hub_data_set_says_what_to_do(words, monkeypatch):
    import datasets

    def refused(*_, **__):
        raise ConnectionError("access is gated\nmore")

    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(
        DataError, match=r"data set x/y \(split train\) cannot be loaded: access is gated; save it as JSON lines"
    ):
        instruct.load(instruct.Options(dataset="x/y"), words, 8)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "Unknown split \"test\". Should be one of ['train', 'dev'].",
            r"x/y has no split test: .*'dev'.*; name one of them as task\.eval_split",
        ),
        (
            "Config name is missing.\nPlease pick one among ['main', 'socratic']",
            r"several configurations: .*'socratic'.*; name one as task\.subset",
        ),
    ],
)
def test_a_split_or_configuration_that_is_not_there_is_named(words, monkeypatch, error, message):
    import datasets

    def load(name, subset, *, split, revision):
        if split == "test" or "Config" in error:
            raise ValueError(error)
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=message):
        instruct.load(instruct.Options(dataset="x/y"), words, 8)


def test_without_a_network_the_hub_is_asked_once_and_then_the_cache_alone(words, monkeypatch):
    import datasets
    from huggingface_hub import constants

    asked, told_offline = [], []

    def load(*_, **__):
        told_offline.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("refused")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for there, why in ((False, "it is not in the local cache, and the hub cannot be reached"), (True, "refused")):
        monkeypatch.setattr(hub, "_ANSWER", [])
        monkeypatch.setattr(hub, "_ask", lambda there=there: asked.append(there) or there)
        for _ in range(2):
            with pytest.raises(
                DataError,
                match=rf"data set x/y \(split train\) cannot be loaded: {why}.*; save it as JSON lines or Parquet",
            ):
                instruct.load(instruct.Options(dataset="x/y"), words, 8)
    assert told_offline == [(True, True)] * 2 + [(False, False)] * 2
    assert asked == [False, True], "once, not once a data set"
    assert not constants.HF_HUB_OFFLINE


def test_rows_that_all_have_one_prompt_are_held_out_by_their_responses(tmp_path, words):
    file = write(tmp_path / "t.jsonl", "".join(json.dumps({"t": "a " * i + "b"}) + "\n" for i in range(40)))
    data = instruct.load(instruct.Options(train=file, prompt="c", response=" {t}"), words, 64)
    assert (len(data.train), len(data.validation), len(data.test)) == (34, 2, 4)
    assert data.facts.test.prompt_in_training == data.facts.test.in_training == 0


def test_a_hub_data_set_is_read_like_a_file(words, monkeypatch):
    import datasets

    seen = []

    def fake(name, subset, *, split, revision):
        seen.append((name, subset, split, revision))
        return [{"question": "a " * i, "answer": "b"} for i in range(1, 9)]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = instruct.load(instruct.Options(dataset="x/y", revision="abc", eval_split="dev"), words, 64)
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 8)
    assert seen == [("x/y", None, "train", "abc"), ("x/y", None, "dev", "abc")]


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


def test_e2e_as_it_is(shared_data, tiny):
    options = instruct.Options(
        train=shared_data("e2e/valid.txt"),
        eval=shared_data("e2e/test.txt"),
        separator="||",
        columns=("mr", "ref"),
        prompt="{mr}\n",
        response="{ref}",
        max_train=400,
        max_eval=100,
    )
    data = instruct.load(options, tiny, 256)
    assert (len(data.train) + len(data.validation), len(data.test)) == (400, 100)
    lines = {line.strip() for line in Path(options.eval).read_text(encoding="utf-8").split("\n")}
    for example in data.test:
        prompt, _, response = tiny.decode(example.ids, skip_special_tokens=True).partition("\n")
        assert f"{prompt}||{response}" in lines or f"{prompt} ||{response}" in lines


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"answer_pattern": "x(.)", "metric": "eval_loss"},
            "answer_pattern applies to generated answers; give metric: exact_match",
        ),
        (
            {"answer_pattern": "####", "metric": "exact_match"},
            r"answer_pattern '####' has 0 groups; put only the answer into parentheses",
        ),
        ({"answer_pattern": "(", "metric": "exact_match"}, r"answer_pattern '\(' is not a valid regular expression"),
        ({"system": "Be brief."}, "system is written by the chat template; give template: chat"),
    ],
)
def test_options_of_generated_answers_and_chats_that_do_not_go_together(given, words):
    with pytest.raises(ValidationError, match=words):
        instruct.Options(train="x.jsonl", **given)


def test_a_reference_without_an_answer_is_told_with_its_row(tmp_path, words):
    file = write(
        tmp_path / "t.jsonl",
        "".join(json.dumps({"question": f"a{i}", "answer": "b" if i % 2 else "#### 3"}) + "\n" for i in range(20)),
    )
    options = instruct.Options(train=file, eval=copy_of(file), metric="exact_match", answer_pattern="gsm8k")
    with pytest.raises(
        DataError,
        match=(
            r"copy\.jsonl:\d+: task.answer_pattern finds nothing in the reference 'b'.*"
            r"\(the same or a similar fault in 10 of 20 rows\)"
        ),
    ):
        instruct.load(options, words, 16)
