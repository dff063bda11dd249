"""Claims about conversations: what is predicted is what the assistant says and the token that ends it, no more and no
less.
"""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from lorabench.errors import DataError
from lorabench.tasks import instruct
from tests.tasks.conversations import CHATML, MARKED, TALK, THINKING, TURN, load, said, written

LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) "
        "%}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + "
        "m['content'].strip() + eos_token }}{% endif %}{% endfor %}"
)  # fmt: skip


# as Mistral: the system's words stand in the last question, so that no conversation begins as the whole does
LAST_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' }}{% if loop.index0 "
        "== (messages | length) - 2 %}{{ messages[0].content + ' ' }}{% endif %}"
    "{{ m.content + '[/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% "
        "endif %}{% endfor %}"
)  # fmt: skip


ENDED = ["Hello! How are you?<|im_end|>", "I did.<|im_end|>"]


@pytest.mark.parametrize("template", [CHATML, MARKED, THINKING])
def test_the_assistants_turns_and_their_ends_alone_are_predicted(tmp_path, chat, template):
    chat.chat_template = template
    data = load(chat, written(tmp_path, [*TALK, {"role": "user", "content": "bye"}]))
    for example in data.train + data.validation + data.test:
        assert said(chat, example) == ENDED
        assert example.n_bytes == sum(len(m["content"].encode()) for m in TALK if m["role"] == "assistant")


@pytest.mark.parametrize("template", [CHATML, MARKED, LLAMA, THINKING])
def test_the_ids_are_those_of_the_tokenizers_own_template_with_one_begin_token(tmp_path, chat, template):
    chat.chat_template = template
    talk = TALK[1:]
    data = load(chat, written(tmp_path, talk))
    whole = {
        tuple(
            chat.apply_chat_template(
                [{**talk[0], "content": f"Hi there {i}"}, *talk[1:]], tokenize=True, return_dict=False
            )
        )
        for i in range(20)
    }
    seen = {tuple(e.ids.tolist()) for e in data.train + data.validation + data.test}
    assert len(seen) == 20
    assert all(any(w[: len(s)] == s for w in whole) for s in seen)
    assert all(s[0] == chat.bos_token_id and s[1] != chat.bos_token_id for s in seen) or template != LLAMA


def test_a_mark_of_the_template_and_the_prefixes_tell_the_same(tmp_path, chat):
    file = written(tmp_path, TALK)
    plain = load(chat, file)
    chat.chat_template = MARKED
    marked = load(chat, file)
    for a, b in zip(plain.train + plain.test, marked.train + marked.test, strict=True):
        assert a.ids.tolist() == b.ids.tolist() and a.predicted.tolist() == b.predicted.tolist()


def test_the_empty_thought_of_the_last_turn_is_learned_where_the_template_writes_one(tmp_path, chat):
    chat.chat_template = THINKING
    data = load(chat, written(tmp_path, TALK))
    assert said(chat, data.train[0]) == [ENDED[0], "<think>\n\n</think>\n\n" + ENDED[1]]


def test_a_space_that_opens_an_answer_goes_with_its_first_word(tmp_path, chat, tokenizer):
    """Tokenizers join it to the word: without it the first word would not be learned."""
    for made in (chat, tokenizer):
        made.chat_template = (
            "{% for m in messages %}{{ '\n' + m.role + ': ' + m.content + eos_token }}{% endfor "
            "%}{% if add_generation_prompt %}{{ '\nassistant: ' }}{% endif %}"
        )
        data = load(made, written(tmp_path, TALK))
        assert [run.strip() for run in said(made, data.train[0])] == [
            m["content"] + made.eos_token for m in TALK if m["role"] == "assistant"
        ]
        made.chat_template = None


def test_a_template_whose_beginnings_change_tells_the_turns_by_another_content(tmp_path, chat):
    chat.chat_template = LAST_SYSTEM
    talk = [
        TALK[0],
        {"role": "user", "content": "I did."},
        {"role": "assistant", "content": "I did."},
        TALK[3],
        TALK[4],
    ]
    data = load(chat, written(tmp_path, talk))
    assert said(chat, data.train[0]) == [" I did." + chat.eos_token] * 2  # the space is of the token after it
    chat.chat_template = CHATML
    opening = [{"role": "assistant", "content": "user"}, *TALK[1:]]
    assert said(chat, load(chat, written(tmp_path, [*opening[:1], *opening[1:]])).train[0])[1:] == ENDED


@pytest.mark.parametrize(
    ("field", "talk"),
    [
        ("messages", TALK),
        (
            "conversations",
            [
                {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
                for m in TALK
            ],
        ),
        ("conversations", TALK),
        (
            "messages",
            [
                TALK[0],
                *(
                    {
                        **m,
                        "content": [
                            {"type": "text", "text": m["content"][:3]},
                            {"type": "text", "text": m["content"][3:]},
                        ],
                    }
                    for m in TALK[1:]
                ),
            ],
        ),
    ],
)
def test_every_layout_gives_the_same_examples(tmp_path, chat, field, talk):
    data, expected = load(chat, written(tmp_path, talk, field=field)), load(chat, written(tmp_path, TALK))
    assert {tuple(e.ids.tolist()) for e in data.train + data.test} == {
        tuple(e.ids.tolist()) for e in expected.train + expected.test
    }
    assert all(said(chat, e) == ENDED for e in data.train)
    assert data.facts.notes == (f"rows are read as conversations ({field}), the loss is on the assistant's turns",)


def test_a_field_of_another_name_and_a_system_column(tmp_path, chat):
    file = written(tmp_path, TALK[1:], field="dialogue", system="Be kind.")
    data = load(chat, file, messages="dialogue")
    assert chat.decode(data.train[0].ids).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi there"
    )
    with pytest.raises(ValidationError, match="exclude each other"):
        instruct.Options(train=file, messages="dialogue", prompt="{id}")


def test_turns_of_weight_0_and_prompts_of_completions_are_given_not_learned(tmp_path, chat):
    talk = [*TALK[:2], {**TALK[2], "weight": 0}, *TALK[3:]]
    for template in (CHATML, MARKED):
        chat.chat_template = template
        assert said(chat, load(chat, written(tmp_path, talk)).train[0]) == ENDED[1:]
    file = tmp_path / "trl.jsonl"
    rows = [{"prompt": [{**TALK[0], "content": f"{i}"}, *TALK[1:4]], "completion": TALK[4:]} for i in range(20)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert said(chat, load(chat, str(file)).train[0]) == ENDED[1:]


def test_tools_and_calls_go_to_the_template(tmp_path, chat):
    chat.chat_template = "{% for t in tools %}{{ t['name'] }};{% endfor %}" + CHATML.replace(
        "m['content'] +", "(m['content'] or (m['tool_calls'] | tojson)) +"
    )
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    data = load(
        chat, written(tmp_path, [*TALK[:2], call, {"role": "tool", "content": "2"}, TALK[4]], tools=[{"name": "add"}])
    )
    first, second = said(chat, data.train[0])
    assert json.loads(first.removesuffix("<|im_end|>")) == call["tool_calls"]
    assert second == ENDED[1]
    assert chat.decode(data.train[0].ids).startswith("add;<|im_start|>system")


def test_without_a_template_the_sentence_says_what_to_do_and_plain_lines_do(tmp_path, chat):
    chat.chat_template = None
    file = written(tmp_path, TALK)
    with pytest.raises(
        DataError,
        match=r"has no chat template .* chat_template\.jinja in the model's folder, or give task.chat_template: plain",
    ):
        load(chat, file)
    data = load(chat, file, chat_template="plain")
    assert said(chat, data.train[0]) == [" Hello! How are you?" + chat.eos_token, " I did." + chat.eos_token]
    text = chat.decode(data.train[0].ids)
    assert text.startswith(f"{chat.bos_token}System: Be brief. ")
    assert text.endswith(f"\nUser: Fine. Who won?\nAssistant: I did.{chat.eos_token}")


@pytest.mark.parametrize(
    ("talk", "template", "message"),
    [
        (TALK[:2], CHATML, "has no assistant turn to learn from"),
        ([{"role": "wizard", "content": "a"}, TALK[2]], CHATML, "turn 1: unknown role 'wizard'"),
        ([TALK[1], {"role": "assistant", "content": " "}], CHATML, "turn 2: the assistant says nothing"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, TALK[2]],
            CHATML,
            r"turn 1: the content has parts that are not text \(image\)",
        ),
        (
            [TALK[1], {"role": "assistant", "content": None, "function_call": {"name": "f"}}],
            CHATML,
            "use tool_calls instead",
        ),
        (
            TALK,
            LLAMA,
            r"chat template rejects this conversation \(roles must alternate\)",
        ),
        (
            TALK,
            "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
            "turn 3: the tokenizer's chat template does not show where the assistant's turn begins and ends",
        ),
    ],
)
def test_what_no_label_mask_can_be_made_of_is_told_with_its_turn(tmp_path, chat, talk, template, message):
    chat.chat_template = template
    with pytest.raises(DataError, match=message):
        load(chat, written(tmp_path, talk))


def test_the_token_that_closes_a_whole_conversation_is_no_part_of_its_last_turn(tmp_path, chat):
    """Phi-3's way: end-of-text after the last turn alone, which is gone where another turn opens."""
    chat.chat_template = (
        "{% for m in messages %}"
        + TURN
        + "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    assert said(chat, load(chat, written(tmp_path, TALK)).train[0]) == ENDED
    chat.chat_template = CHATML.replace(
        "'<|im_end|>\n'", "'<|im_end|>' + eos_token"
    )  # where every turn ends with two, both are learned
    assert said(chat, load(chat, written(tmp_path, TALK)).train[0]) == [end + chat.eos_token for end in ENDED]


def test_a_template_that_leaves_the_systems_words_out_is_told(tmp_path, chat):
    told = "drops the system message"
    assert not any(told in note for note in load(chat, written(tmp_path, TALK)).facts.notes)
    chat.chat_template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    assert [told in note for note in load(chat, written(tmp_path, TALK)).facts.notes].count(True) == 1
    assert not any(told in note for note in load(chat, written(tmp_path, TALK[1:])).facts.notes)


def test_a_cut_conversation_keeps_the_turns_that_fit(tmp_path, chat):
    file = written(tmp_path, TALK)
    whole = load(chat, file).train[0]
    first_end = int(np.flatnonzero(np.diff(whole.predicted.astype(int)) == -1)[0]) + 1
    data = load(chat, file, length=first_end + 3)
    assert said(chat, data.train[0]) == ENDED[:1]
    assert data.facts.train.cut == data.facts.train.read
    assert data.facts.train.whole_at >= len(whole.ids)
