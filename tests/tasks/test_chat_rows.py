"""Claims about rows as conversations: which layouts are known, and prompts, labels and answers as turns of a chat."""

import json

import pytest

from lorabench.errors import DataError
from lorabench.tasks import instruct
from tests.tasks.conversations import CHATML, MARKED, PAIRS, TALK, THINKING, load, said, written


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        ({"prompt": "2 + 2 =", "completion": " 4"}, "2 + 2 =", " 4"),
        ({"prompt": "a", "response": "b", "chosen": "c"}, "a", "b"),
        ({"text": "a b", "meta": "x"}, "", "a b"),
        (
            {"instruction": "Add.", "input": "2 2", "output": "4"},
            "### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:\n",
            "4",
        ),
        ({"instruction": "Add 2 2.", "input": "", "output": "4"}, "### Instruction:\nAdd 2 2.\n\n### Response:\n", "4"),
        (
            {"instruction": "Add.", "context": "2 2", "response": "4", "category": "x"},
            "### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:\n",
            "4",
        ),
    ],
)
def test_the_names_of_the_fields_say_the_layout_where_no_templates_are_given(row, prompt, response):
    from lorabench.tasks._row import Row

    layout, pair = instruct.read_pair(instruct.Options(train="t.jsonl"), Row("t.jsonl:1", row))
    assert layout and pair.prompt.endswith(prompt) and pair.response == response
    assert (
        instruct.read_pair(
            instruct.Options(train="t.jsonl", prompt=f"{{{next(iter(row))}}}", response="x"), Row("t.jsonl:1", row)
        )[1].response
        == "x"
    )


def test_rows_of_no_known_layout_say_what_to_give():
    from lorabench.tasks._row import Row

    with pytest.raises(
        DataError,
        match=(
            r"t\.jsonl:1: task.prompt and task.response have their defaults, and no known layout has the"
            r" columns a, b; give both"
        ),
    ):
        instruct.read_pair(instruct.Options(train="t.jsonl"), Row("t.jsonl:1", {"a": "1", "b": "2"}))
    talk = json.dumps(TALK)
    for row, advice in (
        ({"dialog": talk}, "give task.messages: dialog"),
        ({"chosen": talk, "rejected": talk}, "give task.messages: chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r'give prompt: "\{prompt\}\\n" and response: "\{chosen\}"'),
        ({"error": "Entry not found"}, "columns error; is it the right file"),
        ({f"id{i}": "x" for i in range(100)}, "id11 and 88 more; give both"),
    ):
        with pytest.raises(DataError, match=advice):
            instruct.read_pair(instruct.Options(train="t.jsonl"), Row("t.jsonl:1", row))
    with pytest.raises(DataError, match=r"messages is not a conversation \('hello'\)"):
        instruct.read_pair(instruct.Options(train="t.jsonl"), Row("t.jsonl:1", {"messages": "hello"}))


@pytest.mark.parametrize("given", [{}, {"prompt": "Q: {question}\nA: ", "response": "{answer}"}])
@pytest.mark.parametrize(
    ("row", "column", "template"),
    [({"question": "a"}, "answer", "response"), ({"answer": "a", "notes": "b"}, "question", "prompt")],
)
def test_a_row_that_lacks_one_column_of_the_default_templates_is_told_which(given, row, column, template):
    from lorabench.tasks._row import Row

    with pytest.raises(
        DataError, match=rf"lacks the column '{column}', which the template task\.{template} names"
    ) as e:
        instruct.read_pair(instruct.Options(train="t.jsonl", **given), Row("t.jsonl:1", row))
    assert f"its columns: {', '.join(row)};" in str(e.value)
    assert "not given" not in str(e.value)


def of_rows(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("template", [CHATML, MARKED, THINKING])
def test_prompt_and_response_are_written_as_two_turns(tmp_path, chat, template):
    chat.chat_template = template
    data = load(chat, of_rows(tmp_path, PAIRS), template="chat", system="Be brief.")
    whole = {}
    for row in PAIRS:
        turns = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        whole[tuple(chat.apply_chat_template(turns, tokenize=True, return_dict=False))] = row["answer"]
    for example in data.train + data.test:
        answer = next(a for ids, a in whole.items() if ids[: len(example.ids)] == tuple(example.ids.tolist()))
        (spoken,) = said(chat, example)
        assert (
            spoken.endswith(answer + "<|im_end|>")
            and spoken.replace("<think>\n\n</think>\n\n", "") == answer + "<|im_end|>"
        )
    assert data.facts.notes == ("rows are read as prompt and response, one turn of the user and one of the assistant",)


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, "Add.\n\n1 and 2", "3"),
        ({"instruction": "Add.", "input": "", "output": "3"}, "Add.", "3"),
        ({"instruction": "Add.", "context": "1 and 2", "response": "3"}, "Add.\n\n1 and 2", "3"),
        ({"prompt": "Add.", "completion": " 3"}, "Add.", "3"),
        ({"question": "Add?", "answer": "3"}, "Add?", "3"),
    ],
)
def test_a_chat_asks_the_bare_question(row, asked, answer):
    from lorabench.tasks._row import Row

    turn, reply = instruct.read_pair(instruct.Options(train="x.jsonl", template="chat"), Row("here", row))[
        1
    ].chat.messages
    assert (turn["content"], reply["content"]) == (asked, answer)
    assert instruct.read_pair(instruct.Options(train="x.jsonl"), Row("here", row))[1].chat is None, (
        "the default is as it was"
    )


def test_a_chat_of_rows_needs_a_template_and_a_question(tmp_path, chat):
    file = of_rows(tmp_path, PAIRS)
    chat.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        load(chat, file, template="chat")
    with pytest.raises(DataError, match="the rows are text alone, which has no question"):
        load(chat, of_rows(tmp_path, [{"text": "a"}] * 4), template="chat")


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_the_last_answer_is_generated_from_all_before_it(tmp_path, chat, template):
    chat.chat_template = template
    data = load(chat, of_rows(tmp_path, PAIRS), template="chat", metric="exact_match", answer_pattern="gsm8k")
    for row in data.test:
        given = chat.decode(row.ids[: row.prompt_length])
        question = next(p for p in PAIRS if f"{p['question']}<|im_end|>" in given)
        turns = [{"role": "user", "content": question["question"]}]
        assert given == chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), (
            "the words that open the answer are given"
        )
        assert row.reference.endswith(question["answer"])
    talk = load(chat, written(tmp_path, TALK), metric="exact_match")
    for row in talk.test:
        assert row.reference.endswith(TALK[-1]["content"]) and TALK[2]["content"] in chat.decode(
            row.ids[: row.prompt_length]
        )


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_a_label_is_the_assistants_answer_and_its_end_is_not_learned(tmp_path, chat, template):
    from lorabench.tasks import classify

    chat.chat_template = template
    file = of_rows(tmp_path, [{"sentence": f"film {i}", "label": i % 2} for i in range(30)])
    data = classify.load(classify.Options(train=file, template="chat"), chat, 256)
    for row in data.train + data.test:
        assert said(chat, row) in (["negative"], ["positive"])
    for row in data.test:
        assert [said(chat, c) for c in row.choices] == [["negative"], ["positive"]]
        before = chat.decode(row.ids[~row.predicted])
        assert before.startswith(
            chat.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": next(f"Review: film {i}\nSentiment:" for i in range(30) if f"film {i}\n" in before),
                    }
                ],
                tokenize=False,
                add_generation_prompt=True,
            )
        )
