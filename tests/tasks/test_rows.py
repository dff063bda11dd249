"""Claims about reading rows, templates, and drawing held-out rows: instruct and classify."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lorabench.errors import DataError
from lorabench.tasks import instruct
from lorabench.tasks._rows import Row, hold_out
from lorabench.tasks._template import fill, parse
from tests.tasks.rows import copy_of, read_file, write


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


def test_rows_that_all_have_one_prompt_are_held_out_by_their_responses(tmp_path, words):
    file = write(tmp_path / "t.jsonl", "".join(json.dumps({"t": "a " * i + "b"}) + "\n" for i in range(40)))
    data = instruct.load(instruct.Options(train=file, prompt="c", response=" {t}"), words, 64)
    assert (len(data.train), len(data.validation), len(data.test)) == (34, 2, 4)
    assert data.facts.test.prompt_in_training == data.facts.test.in_training == 0


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
